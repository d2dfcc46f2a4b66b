package alloc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// PortRange are node ports from First to Last, both included.
type PortRange struct{ First, Last int }

// Config of New.
type Config struct {
	Backend backend.Backend
	// CIDR is the range of cluster addresses that the server begins with; zero
	// means 10.96.0.0/16. ServiceCIDR objects add others.
	CIDR netip.Prefix
	// Ports is the range of node ports; zero means 30000 to 32767.
	Ports PortRange
}

// Services hands out addresses and ports. Its methods may be called
// concurrently, once Use has been called.
type Services struct {
	cidr      netip.Prefix
	ports     PortRange
	keys      *portClaims
	addresses *pool // of all ranges, to give back and to repair
	portPool  pool
	cluster   resource.Cluster
}

// New returns Services that must be given their cluster by Use.
func New(c Config) (*Services, error) {
	if !c.CIDR.IsValid() {
		c.CIDR = netip.MustParsePrefix("10.96.0.0/16")
	}
	if c.Ports == (PortRange{}) {
		c.Ports = PortRange{30000, 32767}
	}
	c.CIDR = c.CIDR.Masked()
	if !c.CIDR.Addr().Is4() || c.CIDR.Bits() < 12 || c.CIDR.Bits() > 30 {
		return nil, fmt.Errorf("service range %s: must be an IPv4 range from /12 to /30", c.CIDR)
	}
	if c.Ports.First < 1 || c.Ports.Last > 65535 || c.Ports.Last < c.Ports.First {
		return nil, fmt.Errorf("node port range %d-%d: must lie within 1-65535", c.Ports.First, c.Ports.Last)
	}
	s := &Services{cidr: c.CIDR, ports: c.Ports}
	s.addresses = s.pool(everywhere)
	s.keys = newPortClaims(c.Backend, c.Ports, func(ctx context.Context) (map[int]Owner, error) {
		held, err := s.held(ctx)
		return held[1], err
	})
	ports := c.Ports.Last - c.Ports.First + 1
	s.portPool = pool{size: ports, low: band(ports, 32, 16, 128), usable: func(int) bool { return true }, claims: s.keys}
	return s, nil
}

// Use says where IPAddress and ServiceCIDR objects and Services are kept.
func (s *Services) Use(c resource.Cluster) { s.cluster = c }

// CIDR is the range of cluster addresses that the server began with.
func (s *Services) CIDR() netip.Prefix { return s.cidr }

// Ports is the range of node ports.
func (s *Services) Ports() PortRange { return s.ports }

// First is the first address of the range, which belongs to the Service
// "kubernetes".
func (s *Services) First() netip.Addr { return addressAt(s.cidr, 1) }

// Write collects what one write of a Service takes and gives back.
type Write struct {
	services *Services
	owner    Owner
	dryRun   bool
	// taken is given back if the write fails, freed if it succeeds.
	taken, freed []func(context.Context) error
	// found are the values a dry run would have taken.
	found map[*pool]map[int]bool
}

// Begin starts a write on behalf of owner. With dryRun nothing is claimed.
func (s *Services) Begin(owner Owner, dryRun bool) *Write {
	return &Write{services: s, owner: owner, dryRun: dryRun}
}

// NextAddress claims a free address. The error is ErrFull, or what the storage
// said. A dry run gets the address of the range itself, as in kube-apiserver.
func (w *Write) NextAddress(ctx context.Context) (netip.Addr, error) {
	if w.dryRun {
		return w.services.cidr.Addr(), nil
	}
	pools, err := w.services.ranges(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, p := range pools {
		value, err := w.next(ctx, p)
		if errors.Is(err, ErrFull) {
			continue
		}
		return addressAt(p.prefix, value), err
	}
	return netip.Addr{}, ErrFull
}

// Address claims a given address of any range: ErrAddressTaken or ErrForeign.
func (w *Write) Address(ctx context.Context, a netip.Addr) error {
	pools, err := w.services.ranges(ctx)
	if err != nil {
		return err
	}
	for _, p := range pools {
		if value, ok := offset(p.prefix, a); ok && p.usable(value) {
			return w.take(ctx, p, value, ErrAddressTaken)
		}
	}
	return ErrForeign
}

// FreeAddress gives an address back when the write has succeeded, also if its
// range is gone.
func (w *Write) FreeAddress(a netip.Addr) {
	if value, ok := offset(everywhere, a); ok {
		w.free(w.services.addresses, value)
	}
}

// NextPort claims a free port.
func (w *Write) NextPort(ctx context.Context) (int32, error) {
	value, err := w.next(ctx, &w.services.portPool)
	return int32(value + w.services.ports.First), err
}

// Port claims a given port: ErrPortTaken, or an error that names the range.
func (w *Write) Port(ctx context.Context, port int32) error {
	r := w.services.ports
	if int(port) < r.First || int(port) > r.Last {
		return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %d-%d", r.First, r.Last)
	}
	return w.take(ctx, &w.services.portPool, int(port)-r.First, ErrPortTaken)
}

// FreePort gives a port back when the write has succeeded.
func (w *Write) FreePort(port int32) {
	r := w.services.ports
	if int(port) >= r.First && int(port) <= r.Last {
		w.free(&w.services.portPool, int(port)-r.First)
	}
}

func (w *Write) next(ctx context.Context, p *pool) (int, error) {
	value, err := p.next(ctx, w.owner, w.dryRun, w.found[p])
	if err == nil {
		w.remember(p, value)
	}
	return value, err
}

func (w *Write) take(ctx context.Context, p *pool, value int, taken error) error {
	err := p.take(ctx, value, w.owner, w.dryRun)
	if errors.Is(err, errTaken) {
		return taken
	}
	if err == nil {
		w.remember(p, value)
	}
	return err
}

func (w *Write) remember(p *pool, value int) {
	if w.dryRun {
		if w.found == nil {
			w.found = map[*pool]map[int]bool{}
		}
		if w.found[p] == nil {
			w.found[p] = make(map[int]bool)
		}
		w.found[p][value] = true
		return
	}
	w.taken = append(w.taken, func(ctx context.Context) error { return p.claims.Free(ctx, value, w.owner) })
}

func (w *Write) free(p *pool, value int) {
	w.freed = append(w.freed, func(ctx context.Context) error { return p.claims.Free(ctx, value, w.owner) })
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
