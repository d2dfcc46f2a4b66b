package alloc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/family"
)

// PortRange are node ports from First to Last, both included.
type PortRange struct{ First, Last int }

// Config of New.
type Config struct {
	Backend backend.Backend
	// CIDRs are the ranges of cluster addresses that the server begins with; none
	// means 10.96.0.0/16. Services have the families of these, the first by
	// default; ServiceCIDR objects add other ranges.
	CIDRs family.Ranges
	// Ports is the range of node ports; zero means 30000 to 32767.
	Ports PortRange
}

// Services hands out addresses and ports. Its methods may be called
// concurrently, once Use has been called.
type Services struct {
	cidrs     family.Ranges
	ports     PortRange
	keys      *portClaims
	addresses *addressClaims
	portPool  pool[int]
	cluster   resource.Cluster
}

// New returns Services that must be given their cluster by Use.
func New(c Config) (*Services, error) {
	if len(c.CIDRs) == 0 {
		c.CIDRs = family.MustParse("10.96.0.0/16")
	}
	if c.Ports == (PortRange{}) {
		c.Ports = PortRange{30000, 32767}
	}
	if err := c.CIDRs.Check(); err != nil {
		return nil, fmt.Errorf("service %w", err)
	}
	for _, p := range c.CIDRs {
		switch {
		case p.Addr().Is4() && (p.Bits() < 12 || p.Bits() > 30):
			return nil, fmt.Errorf("service range %s: must be from /12 to /30", p)
		case p.Addr().Is6() && (p.Bits() < 64 || p.Bits() > 126):
			return nil, fmt.Errorf("service range %s: must be from /64 to /126", p)
		}
	}
	if c.Ports.First < 1 || c.Ports.Last > 65535 || c.Ports.Last < c.Ports.First {
		return nil, fmt.Errorf("node port range %d-%d: must lie within 1-65535", c.Ports.First, c.Ports.Last)
	}
	s := &Services{ports: c.Ports}
	for _, p := range c.CIDRs {
		s.cidrs = append(s.cidrs, p.Masked())
	}
	s.addresses = &addressClaims{s}
	s.keys = newPortClaims(c.Backend, c.Ports, func(ctx context.Context) (map[int]Owner, error) {
		held, err := s.held(ctx)
		return held.ports, err
	})
	ports := uint64(c.Ports.Last - c.Ports.First + 1)
	s.portPool = pool[int]{
		size: ports, low: band(ports, 32, 16, 128), claims: s.keys,
		at:     func(offset uint64) int { return int(offset) },
		usable: func(int) bool { return true },
	}
	return s, nil
}

// Use says where IPAddress and ServiceCIDR objects and Services are kept.
func (s *Services) Use(c resource.Cluster) { s.cluster = c }

// CIDRs are the ranges of cluster addresses that the server began with, one of
// each family that Services can have, the primary one first.
func (s *Services) CIDRs() family.Ranges { return s.cidrs }

// Ports is the range of node ports.
func (s *Services) Ports() PortRange { return s.ports }

// First is the first address of the primary range, which belongs to the Service
// "kubernetes".
func (s *Services) First() netip.Addr { return addressAt(s.cidrs[0], 1) }

// Write collects what one write of a Service takes and gives back.
type Write struct {
	services *Services
	owner    Owner
	dryRun   bool
	// taken is given back if the write fails, freed if it succeeds.
	taken, freed []func(context.Context) error
	// found are the ports a dry run would have taken.
	found map[int]bool
}

// Begin starts a write on behalf of owner. With dryRun nothing is claimed.
func (s *Services) Begin(owner Owner, dryRun bool) *Write {
	return &Write{services: s, owner: owner, dryRun: dryRun}
}

// NextAddress claims a free address of a family. The error is ErrFull, or what
// the storage said. A dry run gets the address of the range itself, as in
// kube-apiserver.
func (w *Write) NextAddress(ctx context.Context, f corev1.IPFamily) (netip.Addr, error) {
	if own, ok := w.services.cidrs.Of(f); ok && w.dryRun {
		return own.Addr(), nil
	}
	ranges, err := w.services.ranges(ctx, f)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, r := range ranges {
		a, err := w.services.pool(r).next(ctx, w.owner, false, nil)
		if errors.Is(err, ErrFull) {
			continue
		}
		if err == nil {
			took(w, w.services.addresses, a)
		}
		return a, err
	}
	return netip.Addr{}, ErrFull
}

// Address claims a given address of any range of its family: ErrAddressTaken or
// ErrForeign.
func (w *Write) Address(ctx context.Context, a netip.Addr) error {
	ranges, err := w.services.ranges(ctx, family.Of(a))
	if err != nil {
		return err
	}
	for _, r := range ranges {
		if !isHost(r, a) {
			continue
		}
		err := w.services.pool(r).take(ctx, a, w.owner, w.dryRun)
		if errors.Is(err, errTaken) {
			return ErrAddressTaken
		}
		if err == nil {
			took(w, w.services.addresses, a)
		}
		return err
	}
	return ErrForeign
}

// FreeAddress gives an address back when the write has succeeded, also if its
// range is gone.
func (w *Write) FreeAddress(a netip.Addr) { freed(w, w.services.addresses, a) }

// NextPort claims a free port.
func (w *Write) NextPort(ctx context.Context) (int32, error) {
	value, err := w.services.portPool.next(ctx, w.owner, w.dryRun, w.found)
	if err == nil {
		w.tookPort(value)
	}
	return int32(value + w.services.ports.First), err
}

// Port claims a given port: ErrPortTaken, or an error that names the range.
func (w *Write) Port(ctx context.Context, port int32) error {
	r := w.services.ports
	if int(port) < r.First || int(port) > r.Last {
		return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %d-%d", r.First, r.Last)
	}
	value := int(port) - r.First
	err := w.services.portPool.take(ctx, value, w.owner, w.dryRun)
	if errors.Is(err, errTaken) {
		return ErrPortTaken
	}
	if err == nil {
		w.tookPort(value)
	}
	return err
}

// FreePort gives a port back when the write has succeeded.
func (w *Write) FreePort(port int32) {
	r := w.services.ports
	if int(port) >= r.First && int(port) <= r.Last {
		freed(w, w.services.keys, int(port)-r.First)
	}
}

func (w *Write) tookPort(value int) {
	if w.dryRun {
		if w.found == nil {
			w.found = make(map[int]bool)
		}
		w.found[value] = true
	}
	took(w, w.services.keys, value)
}

// took notes a claim that was made, freed one that is no longer wanted.
func took[V comparable](w *Write, claims Claims[V], value V) {
	w.taken = append(w.taken, func(ctx context.Context) error { return claims.Free(ctx, value, w.owner) })
}

func freed[V comparable](w *Write, claims Claims[V], value V) {
	w.freed = append(w.freed, func(ctx context.Context) error { return claims.Free(ctx, value, w.owner) })
}

// End gives back what the write no longer needs: what it freed if it was
// committed, what it took if not. A claim that could not be given back is left
// to Run.
func (w *Write) End(committed bool) {
	if w.dryRun {
		return
	}
	// The request may be over; its claims must not outlive it for that.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	back := w.taken
	if committed {
		back = w.freed
	}
	for _, free := range back {
		if err := free(ctx); err != nil {
			slog.Warn("claim not given back; it will be found later", "service", w.owner.Namespace+"/"+w.owner.Name, "error", err)
		}
	}
}
