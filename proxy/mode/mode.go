// Package mode lists the ways to make a node's kernel match a proxy.Table.
package mode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/iptables"
	"github.com/skiff-k8s/skiff/proxy/ipvs"
	"github.com/skiff-k8s/skiff/proxy/nftables"
)

// Mode is one way.
type Mode struct {
	Name string
	// Available says what this host lacks for it; nil: nothing.
	Available func() error
	// New returns the backend, also on a host that lacks something for Apply:
	// Remove does what can be done.
	New func() proxy.Backend
	// Loads says that Available loads modules of the kernel. Remove does not: it finds
	// out by itself that there is nothing.
	Loads bool
	// Over is the name of the mode that this one uses for what it cannot do; empty: of
	// none.
	Over string
}

// Start returns the backend. What other modes left serves on until the backend's first Apply
// has done its work; then it is cleared away. tell is called with what the owner of the node
// should know.
func (m Mode) Start(ctx context.Context, tell func(note string)) (proxy.Backend, error) {
	// A mode over this one has its rules in the same place, and could not go later without them.
	if err := clean(ctx, func(other Mode) bool { return other.Over == m.bare() }); err != nil {
		return nil, err
	}
	for _, note := range append(nftables.Notes(), iptables.Notes()...) {
		tell(note)
	}
	return &successor{Backend: m.New(), mode: m.Name}, nil
}

// bare is the name without a scheduler.
func (m Mode) bare() string {
	bare, _, _ := strings.Cut(m.Name, "/")
	return bare
}

// successor is a backend that takes the place of those of other modes.
type successor struct {
	proxy.Backend
	mode  string
	alone bool // the others are cleared away
}

func (s *successor) Apply(ctx context.Context, t *proxy.Table) error {
	if err := s.Backend.Apply(ctx, t); err != nil || s.alone {
		return err
	}
	if err := Clean(ctx, s.mode); err != nil {
		return err
	}
	s.alone = true
	return nil
}

// ByIPVS reports whether the kernel's own load balancer spreads flows in the mode of a
// name that Choose gave.
func ByIPVS(name string) bool { return name == ipvsName || strings.HasPrefix(name, ipvsName+"/") }

// ipvsName is the mode of IPVS, after which its scheduler may stand.
const ipvsName = "ipvs"

// Auto is the name that stands for the best mode of the host.
const Auto = "auto"

// modes are all, the best first. With nftables the first packet of a flow costs the
// same however many Services there are, with iptables it passes them one by one. IPVS
// comes last, because it needs what nftables needs and more, and its packets pass by
// rules that others have where packets are forwarded.
var modes = []Mode{
	{Name: "nftables", Available: nftables.Available, New: func() proxy.Backend { return nftables.New() }},
	{Name: "iptables", Available: iptables.Available, New: func() proxy.Backend { return iptables.New() }},
	withIPVS(ipvsName, ipvs.DefaultScheduler),
}

// withIPVS is the mode of IPVS with a scheduler.
func withIPVS(name, scheduler string) Mode {
	return Mode{
		Name: name, Loads: true, Over: "nftables",
		Available: func() error {
			if err := nftables.Available(); err != nil {
				return err
			}
			return ipvs.Available(scheduler)
		},
		New: func() proxy.Backend { return ipvs.New(scheduler, nftables.New()) },
	}
}

// WithScheduler is the name of a mode with a scheduler, ipvs/wlc; an empty one is the
// default.
func WithScheduler(name, scheduler string) string {
	if scheduler == "" {
		return name
	}
	return name + "/" + scheduler
}

// find is the modes, that of IPVS with the scheduler of the name.
func find(name string) ([]Mode, error) {
	bare, scheduler, found := strings.Cut(name, "/")
	if !found {
		return modes, nil
	}
	if bare != ipvsName {
		return nil, fmt.Errorf("proxy mode %s has no schedulers", bare)
	}
	list := slices.DeleteFunc(slices.Clone(modes), func(m Mode) bool { return m.Name == bare })
	return append(list, withIPVS(name, scheduler)), ipvs.CheckScheduler(scheduler)
}

// Check says why there can be no mode of a name; empty stands for the default.
func Check(name string) error {
	if name == "" || name == Auto {
		return nil
	}
	list, err := find(name)
	if err != nil {
		return err
	}
	var names []string
	for _, m := range list {
		if m.Name == name {
			return nil
		}
		names = append(names, m.Name)
	}
	return fmt.Errorf("there is no proxy mode %q; there are %s and %s", name, strings.Join(names, ", "), Auto)
}

// Choose is the mode of a name, if the host lacks nothing for it. Empty stands for
// iptables.
func Choose(name string) (Mode, error) {
	if err := Check(name); err != nil {
		return Mode{}, err
	}
	if name == "" {
		name = "iptables"
	}
	list, err := find(name)
	if err != nil {
		return Mode{}, err
	}
	var errs []error
	for _, m := range list {
		if m.Name != name && name != Auto {
			continue
		}
		err := m.Available()
		if err == nil {
			return m, nil
		}
		errs = append(errs, fmt.Errorf("proxy mode %s: %w", m.Name, err))
	}
	return Mode{}, errors.Join(errs...)
}

// Clean takes away what modes made, in this run or an earlier one, but for the one
// to keep; empty: of all.
func Clean(ctx context.Context, keep string) error {
	keep, _, _ = strings.Cut(keep, "/")
	kept := map[string]bool{keep: true}
	for _, m := range modes {
		if m.Name == keep {
			kept[m.Over] = true
		}
	}
	return clean(ctx, func(m Mode) bool { return !kept[m.Name] })
}

// clean takes away what some modes made.
func clean(ctx context.Context, which func(Mode) bool) error {
	var errs []error
	for _, m := range modes {
		// Without what a mode needs there can be nothing of it.
		if !which(m) || !m.Loads && m.Available() != nil {
			continue
		}
		if err := m.New().Remove(ctx); err != nil {
			errs = append(errs, fmt.Errorf("take away the rules of proxy mode %s: %w", m.Name, err))
		}
	}
	return errors.Join(errs...)
}
