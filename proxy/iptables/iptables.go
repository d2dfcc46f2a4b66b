// Package iptables is a proxy.Backend that rewrites packets with the host's
// iptables and ip6tables, in the chains known from Kubernetes' own proxy. Keeper,
// on which it stands, keeps the chains of any owner beside those of other programs.
package iptables

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/family"
	"github.com/skiff-k8s/skiff/proxy"
)

// Backend writes rules into the network namespace of the process. A family has
// rules from the first table on that has anything of it.
type Backend struct {
	keepers map[corev1.IPFamily]*Keeper
	last    *proxy.Table // as it was applied; nil if that is not known
}

var _ proxy.Backend = (*Backend)(nil)

// prefixes of the chains that are this backend's.
var prefixes = []string{
	"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL",
	"KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-",
}

// New returns a backend; Available says whether it can work here.
func New() *Backend { return &Backend{keepers: make(map[corev1.IPFamily]*Keeper)} }

// Available says what the host lacks for rules of any family.
func Available() error {
	var errs []error
	for _, f := range family.All {
		err := Supports(f)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Apply makes the rules match t. It writes the chains of what has changed alone,
// unless it is not known what is there.
func (b *Backend) Apply(ctx context.Context, t *proxy.Table) error {
	last := b.last
	b.last = nil // until all that follows is done
	if last != nil && !last.SameRanges(t) {
		last = nil
	}
	changes := proxy.Changes(last, t)
	for _, f := range family.All {
		if b.keepers[f] == nil && (t.PodsOf(f).IsValid() || slices.ContainsFunc(t.Rules, func(r *proxy.Rule) bool { return r.Family == f })) {
			b.keepers[f] = NewKeeper(f, prefixes, hooks)
		}
		keeper := b.keepers[f]
		if keeper == nil {
			continue
		}
		if err := update(ctx, keeper, last, t, changes, f); err != nil {
			return err
		}
	}
	b.last = t
	return nil
}

func update(ctx context.Context, keeper *Keeper, last, t *proxy.Table, changes []proxy.Change, f corev1.IPFamily) error {
	if last == nil || !keeper.Known() {
		return keeper.Apply(ctx, render(t, f)...)
	}
	var old, now []*proxy.Rule
	for _, c := range changes {
		old, now = append(old, c.Old), append(now, c.New)
	}
	return keeper.Change(ctx, shared, renderRules(last, f, slices.Values(old)), renderRules(t, f, slices.Values(now)))
}

// Intact reports whether the rules are as Apply left them.
func (b *Backend) Intact(ctx context.Context) (bool, error) {
	for _, keeper := range b.keepers {
		if intact, err := keeper.Intact(ctx); err != nil || !intact {
			b.last = nil
			return false, err
		}
	}
	return b.last != nil, nil
}

// Remove takes the hooks, rules and chains away, of every family that the host has.
func (b *Backend) Remove(ctx context.Context) error {
	b.last = nil
	var errs []error
	for _, f := range family.All {
		if Supports(f) == nil {
			errs = append(errs, NewKeeper(f, prefixes, hooks).Remove(ctx, "nat", "filter"))
		}
		delete(b.keepers, f)
	}
	return errors.Join(errs...)
}

// Notes are what the owner of the node should know, in whatever mode: that iptables
// drops what is forwarded, unless one of its rules lets it pass.
func Notes() (notes []string) {
	for _, f := range family.All {
		out, err := exec.Command(program(f), "-w", lockWait, "-S", "FORWARD").Output()
		if err == nil && strings.HasPrefix(string(out), "-P FORWARD DROP\n") {
			notes = append(notes, program(f)+" drops what is forwarded (-P FORWARD DROP): the rules of a node (SKIFF-FORWARD) let traffic of pods pass there, a proxy alone has none")
		}
	}
	return notes
}
