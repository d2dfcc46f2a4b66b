package alloc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// A claim is held to belong to nobody when two looks this far apart both find
// no Service that has it. No write of a Service takes that long.
const repairEvery = 3 * time.Minute

// Run finds claims whose Service is not there or does not have the value, and
// removes them; and Services whose values are not claimed (from a database
// that another server wrote), and claims them. It works until ctx ends.
func (s *Services) Run(ctx context.Context) error {
	if err := s.keys.dropFirst(ctx); err != nil && ctx.Err() == nil {
		slog.Warn("old claims of ports not removed", "error", err)
	}
	var suspects values
	for {
		var err error
		if suspects, err = s.repair(ctx, suspects); err != nil && ctx.Err() == nil {
			slog.Warn("claims of addresses and ports not checked", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(repairEvery):
		}
	}
}

// values are addresses and ports, the latter as offsets into their range, with
// those who have them.
type values struct {
	addresses map[netip.Addr]Owner
	ports     map[int]Owner
}

// repair removes the claims that were suspect before and still are, and
// returns those that are suspect now.
func (s *Services) repair(ctx context.Context, before values) (now values, err error) {
	var claimed values
	if claimed.addresses, err = s.addresses.All(ctx); err != nil {
		return now, fmt.Errorf("list claims: %w", err)
	}
	if claimed.ports, err = s.keys.All(ctx); err != nil {
		return now, fmt.Errorf("list claims: %w", err)
	}
	// The Services are listed after the claims: a claim that was made for one of
	// them is then never taken for an orphan because its Service came later.
	held, err := s.held(ctx)
	if err != nil {
		return now, fmt.Errorf("list services: %w", err)
	}
	if now.addresses, err = settle(ctx, s.addresses, claimed.addresses, held.addresses, before.addresses); err != nil {
		return now, err
	}
	now.ports, err = settle(ctx, s.keys, claimed.ports, held.ports, before.ports)
	return now, err
}

// settle makes claims of what is held, and frees those that nobody holds now
// nor did before.
func settle[V comparable](ctx context.Context, claims Claims[V], claimed, held, before map[V]Owner) (orphans map[V]Owner, err error) {
	orphans, missing := compare(claimed, held)
	for value, owner := range orphans {
		if was, ok := before[value]; ok && was == owner {
			if err := claims.Free(ctx, value, owner); err != nil {
				return orphans, fmt.Errorf("free a claim: %w", err)
			}
		}
	}
	for value, owner := range missing {
		if err := claims.Take(ctx, value, owner); err != nil && !errors.Is(err, errTaken) {
			return orphans, fmt.Errorf("make a claim: %w", err)
		}
	}
	return orphans, nil
}

// compare finds the claims nobody holds and the values nobody claimed. Claims
// without an owner are a user's and left alone.
func compare[V comparable](claimed, held map[V]Owner) (orphans, missing map[V]Owner) {
	orphans, missing = make(map[V]Owner), make(map[V]Owner)
	for value, owner := range claimed {
		is, ok := held[value]
		if owner == anyone && !ok || owner != anyone && owner != (Owner{}) && is != owner {
			orphans[value] = owner
		}
	}
	for value, owner := range held {
		if _, ok := claimed[value]; !ok {
			missing[value] = owner
		}
	}
	return orphans, missing
}

// held are the addresses and the node ports that Services have.
func (s *Services) held(ctx context.Context) (held values, err error) {
	objs, err := s.cluster.List(ctx, s.cluster.Resource("", "services"), "")
	if err != nil {
		return held, err
	}
	held = values{make(map[netip.Addr]Owner), make(map[int]Owner)}
	for _, obj := range objs {
		service := obj.(*corev1.Service)
		owner := Owner{service.Namespace, service.Name}
		for _, ip := range service.Spec.ClusterIPs {
			if a, err := netip.ParseAddr(ip); err == nil {
				held.addresses[a] = owner
			}
		}
		ports := []int32{service.Spec.HealthCheckNodePort}
		for _, p := range service.Spec.Ports {
			ports = append(ports, p.NodePort)
		}
		for _, port := range ports {
			if int(port) >= s.ports.First && int(port) <= s.ports.Last {
				held.ports[int(port)-s.ports.First] = owner
			}
		}
	}
	return held, nil
}
