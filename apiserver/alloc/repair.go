package alloc

import (
	"context"
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
	var suspects [2]map[int]Owner
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

// repair removes the claims that were suspect before and still are, and
// returns those that are suspect now.
func (s *Services) repair(ctx context.Context, before [2]map[int]Owner) (now [2]map[int]Owner, err error) {
	pools := [2]*pool{s.addresses, &s.portPool}
	var claimed [2]map[int]Owner
	for i, p := range pools {
		if claimed[i], err = p.claims.All(ctx); err != nil {
			return now, fmt.Errorf("list claims: %w", err)
		}
	}
	// The Services are listed after the claims: a claim that was made for one of
	// them is then never taken for an orphan because its Service came later.
	held, err := s.held(ctx)
	if err != nil {
		return now, fmt.Errorf("list services: %w", err)
	}
	for i, p := range pools {
		orphans, missing := compare(claimed[i], held[i])
		now[i] = orphans
		for value, owner := range orphans {
			if was, ok := before[i][value]; ok && was == owner {
				if err := p.claims.Free(ctx, value, owner); err != nil {
					return now, fmt.Errorf("free a claim: %w", err)
				}
			}
		}
		for value, owner := range missing {
			if err := p.claims.Take(ctx, value, owner); err != nil && err != errTaken {
				return now, fmt.Errorf("make a claim: %w", err)
			}
		}
	}
	return now, nil
}

// compare finds the claims nobody holds and the values nobody claimed. Claims
// without an owner are a user's and left alone.
func compare(claimed, held map[int]Owner) (orphans, missing map[int]Owner) {
	orphans, missing = make(map[int]Owner), make(map[int]Owner)
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
func (s *Services) held(ctx context.Context) (held [2]map[int]Owner, err error) {
	objs, err := s.cluster.List(ctx, s.cluster.Resource("", "services"), "")
	if err != nil {
		return held, err
	}
	held = [2]map[int]Owner{make(map[int]Owner), make(map[int]Owner)}
	for _, obj := range objs {
		service := obj.(*corev1.Service)
		owner := Owner{service.Namespace, service.Name}
		for _, ip := range service.Spec.ClusterIPs {
			a, err := netip.ParseAddr(ip)
			if err != nil {
				continue
			}
			if value, ok := offset(everywhere, a); ok {
				held[0][value] = owner
			}
		}
		ports := []int32{service.Spec.HealthCheckNodePort}
		for _, p := range service.Spec.Ports {
			ports = append(ports, p.NodePort)
		}
		for _, port := range ports {
			if int(port) >= s.ports.First && int(port) <= s.ports.Last {
				held[1][int(port)-s.ports.First] = owner
			}
		}
	}
	return held, nil
}
