package podnet

import (
	"errors"
	"net/netip"
	"slices"
)

// routes leads to the pods of a node by its address. It costs packets nothing, and needs nodes whose addresses are
// on one link, or a router that knows the way.
type routes struct {
	kernel     *kernel
	isNode     bool
	address    netip.Addr
	routers    []netip.Addr
	neighbours []netip.Prefix
	underlay   underlay
}

var _ backend = (*routes)(nil)

// device is none, and pods may send what the machine may. That of another mode, left by an earlier run, goes; on a
// machine that is no node it is not ours.
func (b *routes) device(_ []netip.Prefix, whole bool) (device, error) {
	if whole && b.isNode {
		if err := b.kernel.removeDevice(); err != nil {
			return device{}, err
		}
	}
	if !b.address.IsValid() {
		return device{}, nil
	}
	mtu, err := b.underlay.mtu(b.kernel, b.address, whole)
	if errors.Is(err, errNoLink) {
		return device{}, nil
	}
	return device{mtu: mtu}, err
}

func (b *routes) lead(t table, peer Node) error {
	for _, pods := range peer.Pods {
		addr, err := peer.of(pods.Addr().Is6())
		if err != nil {
			return err
		}
		t.route(pods, b.via(addr))
	}
	return nil
}

// via is who passes on what is for a node's pods: the node, or the router of its family if that is between.
func (b *routes) via(node netip.Addr) netip.Addr {
	if slices.ContainsFunc(b.neighbours, func(link netip.Prefix) bool { return link.Contains(node) }) {
		return node
	}
	for _, router := range b.routers {
		if router.Is6() == node.Is6() {
			return router
		}
	}
	return node
}
