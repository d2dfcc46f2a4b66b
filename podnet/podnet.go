// Package podnet is the pod network between machines: it keeps, on one machine, what leads to the pods of all
// other nodes. It follows Node objects, makes of them a table of what the kernel must hold, purely, and changes
// what differs. How packets travel is a backend's business:
//
//	route  (route.go)  routes by the other nodes' addresses, for machines on one link
//	vxlan  (vxlan.go)  Ethernet in UDP (RFC 7348), for machines that reach each other in any way
//
// A backend says which entries lead to a node (table.go); kernel.go reads and writes them by netlink. Nothing is
// written down or published for it: entries are known by the protocol number of their routes and by their device,
// so that a later process, or Remove, finds them; and the hardware address of a node in the VXLAN follows from its
// address.
package podnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/guard"
)

// Config says what a machine is in the pod network.
type Config struct {
	// Client lists and watches nodes.
	Client kubernetes.Interface
	// Mode is how packets travel; the zero value is Route.
	Mode Mode
	// Node is the machine's name as a node. It is empty if the machine is none, and only reaches pods.
	Node string
	// Address is that by which other nodes reach the machine. VXLAN needs one.
	Address netip.Addr
	// Ranges are those of all pods of the cluster, one for each IP family. What no node has of them is
	// unreachable, so that no packet for a pod that is gone leaves by the default route.
	Ranges []netip.Prefix
	// Routers pass packets on to the pods of nodes whose address is not within Links; without one all nodes are
	// on a link of this machine. There are one of each for each IP family. Mode Route alone looks at both.
	Routers []netip.Addr
	Links   []netip.Prefix
	// Joined, if set, is told which ranges the machine's own pods have, and the MTU for them, when it is known and
	// whenever it is another one.
	Joined func(Share) error
	// Log gets what goes wrong; it goes on and is tried again.
	Log *slog.Logger
}

// Share is what a machine has of the pod network.
type Share struct {
	// Pods are the ranges of its pods, one for each IP family.
	Pods []netip.Prefix
	// MTU is the largest packet that its pods may send; 0: as the kernel has it.
	MTU int
}

// look is how often a machine looks whether another program has taken away entries, and whether the MTU of its
// link is still the same.
const look = 10 * time.Second

// Run keeps the machine's entries until ctx ends, and leaves them there: a process that is started again takes them
// over, and connections between pods go on meanwhile. Remove takes them away.
func Run(ctx context.Context, c Config) error {
	m, err := open(c)
	if err != nil {
		return err
	}
	defer m.close()
	nodes := newFollower(c.Client)
	var running guard.Group
	running.Go("pod network", func() { nodes.run(ctx) })
	defer running.Wait()
	if !nodes.synced(ctx) {
		return nil // it ended before
	}
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for whole := true; ; {
		if err := m.sync(nodes.list(), whole); err != nil && ctx.Err() == nil {
			c.Log.Error("lead to the pods of other nodes", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-nodes.changed:
			whole = false
		case <-ticker.C:
			whole = true
		}
	}
}

// Remove takes away all that Run did on the machine for the pods of ranges, in any mode.
func Remove(ranges ...netip.Prefix) error {
	k, err := openKernel(ranges)
	if err != nil {
		return err
	}
	defer k.close()
	return errors.Join(k.removeRoutes(), k.removeDevice())
}

// RemoveRoutes is Remove for a machine that is no node: a device there is that of another cluster's node.
func RemoveRoutes(ranges ...netip.Prefix) error {
	k, err := openKernel(ranges)
	if err != nil {
		return err
	}
	defer k.close()
	return k.removeRoutes()
}

// machine is what Run keeps.
type machine struct {
	Config
	backend backend
	kernel  *kernel
	link    int   // of the backend, 0 if it has none
	held    table // what the kernel holds, as far as it is known
	told    Share
}

func open(c Config) (*machine, error) {
	k, err := openKernel(c.Ranges)
	if err != nil {
		return nil, err
	}
	m := &machine{Config: c, kernel: k}
	switch c.Mode {
	case Route, "":
		m.backend = &routes{kernel: k, isNode: c.Node != "", address: c.Address, routers: c.Routers, neighbours: c.Links}
	case VXLAN:
		m.backend = &vxlan{kernel: k, address: c.Address}
	default:
		err = fmt.Errorf("no mode of the pod network is called %q", c.Mode)
	}
	if err != nil {
		return nil, errors.Join(err, k.close())
	}
	return m, nil
}

func (m *machine) close() { _ = m.kernel.close() } // the socket ends with the process at the latest

// sync makes the kernel hold what leads to the nodes. It believes the kernel to hold what it did after the last
// call, unless it is to look at the whole.
func (m *machine) sync(nodes []Node, whole bool) error {
	self := m.self(nodes)
	device, err := m.backend.device(self.Pods, whole)
	if err != nil {
		return fmt.Errorf("device of the pod network: %w", err)
	}
	if whole || device.link != m.link {
		if m.held, err = m.kernel.read(device.link); err != nil {
			return fmt.Errorf("read what leads to pods: %w", err)
		}
		m.link = device.link
	}
	want, errs := m.want(nodes)
	for _, c := range diff(m.held, want) {
		if err := m.apply(c); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, m.tell(Share{Pods: self.Pods, MTU: device.mtu}))...)
}

// self is this machine among the nodes; none if it is no node, or not known as one yet.
func (m *machine) self(nodes []Node) Node {
	for _, n := range nodes {
		if n.Name == m.Node {
			return n
		}
	}
	return Node{}
}

func (m *machine) apply(c change) error {
	if c.gone {
		if err := m.kernel.take(m.link, c.key, c.value); err != nil {
			return err
		}
		delete(m.held, c.key)
		return nil
	}
	if err := m.kernel.put(m.link, c.key, c.value); err != nil {
		return err
	}
	m.held[c.key] = c.value
	return nil
}

func (m *machine) tell(s Share) error {
	if m.Joined == nil || len(s.Pods) == 0 || s.equal(m.told) {
		return nil
	}
	if err := m.Joined(s); err != nil {
		return err
	}
	m.told = s
	return nil
}
