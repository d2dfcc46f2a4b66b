package core

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/alloc"
)

// reserveService fills in the families, addresses and node ports of a Service and keeps
// the claims in step with what is stored.
func reserveService(a *alloc.Services) func(context.Context, *corev1.Service, *corev1.Service, bool) (func(bool), error) {
	return func(ctx context.Context, s, old *corev1.Service, dryRun bool) (func(bool), error) {
		named := s
		if s == nil {
			named = old
		}
		w := a.Begin(alloc.Owner{Namespace: named.Namespace, Name: named.Name}, dryRun)
		if s == nil {
			freeAddresses(w, old.Spec.ClusterIPs)
			freePorts(w, old, nil)
			return w.End, nil
		}
		if old != nil {
			keepReserved(s, old)
		}
		pairClusterIPs(s, old)
		err := fillFamilies(s, old, a.CIDRs().Families())
		if err == nil {
			err = reserveAddresses(ctx, w, s, old)
		}
		if err == nil {
			err = reservePorts(ctx, w, s, old)
		}
		if err != nil {
			w.End(false)
			return nil, err
		}
		return w.End, nil
	}
}

// keepReserved lets a client send back a manifest without the values that were
// chosen for it.
func keepReserved(s, old *corev1.Service) {
	if hasClusterIP(s) && hasClusterIP(old) {
		if s.Spec.ClusterIP == "" {
			s.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if wantsNodePorts(s) && wantsNodePorts(old) {
		keepNodePorts(s, old)
	}
	if hasHealthCheck(s) && hasHealthCheck(old) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

// keepNodePorts matches ports by name; a port that changed its name is a new
// one.
func keepNodePorts(s, old *corev1.Service) {
	used, before := make(map[int32]bool), make(map[string]int32)
	for _, p := range s.Spec.Ports {
		used[p.NodePort] = true
	}
	for _, p := range old.Spec.Ports {
		before[p.Name] = p.NodePort
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort == 0 && !used[before[p.Name]] {
			p.NodePort = before[p.Name]
		}
	}
}

// pairClusterIPs keeps clusterIP and clusterIPs[0] the same for clients that
// know only one of them.
func pairClusterIPs(s, old *corev1.Service) {
	if old == nil {
		if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		}
		return
	}
	if len(s.Spec.ClusterIPs) == 0 && s.Spec.ClusterIP == old.Spec.ClusterIP {
		s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
	}
	samePlural := equalLists(s.Spec.ClusterIPs, old.Spec.ClusterIPs)
	if s.Spec.ClusterIP == old.Spec.ClusterIP || !samePlural {
		return
	}
	s.Spec.ClusterIPs = nil
	if s.Spec.ClusterIP != "" {
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
}

// reserveAddresses takes the addresses that a Service begins to have and frees
// those that it ends to.
func reserveAddresses(ctx context.Context, w *alloc.Write, s, old *corev1.Service) error {
	switch {
	case old == nil || !hasClusterIP(old):
		if !hasClusterIP(s) || isHeadless(s) {
			return nil
		}
		return claimAddresses(ctx, w, s, 0)
	case keepsPreferred(s, old), isHeadless(old):
		return nil
	case !hasClusterIP(s):
		freeAddresses(w, old.Spec.ClusterIPs)
		return nil
	}
	was, is := len(old.Spec.IPFamilies), len(s.Spec.IPFamilies)
	if was == 1 && is == 2 {
		return claimAddresses(ctx, w, s, 1)
	}
	if was == 2 && is == 1 {
		freeAddresses(w, old.Spec.ClusterIPs[1:])
	}
	return nil
}

// claimAddresses takes an address for each family of s, those before the first
// left out: the one that is asked for, or any.
func claimAddresses(ctx context.Context, w *alloc.Write, s *corev1.Service, first int) error {
	for len(s.Spec.ClusterIPs) < len(s.Spec.IPFamilies) {
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, "")
	}
	asked := slices.Clone(s.Spec.ClusterIPs)
	refuse := func(format string, args ...any) error {
		return invalidService(s, field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), asked, fmt.Sprintf(format, args...))})
	}
	for i := first; i < len(s.Spec.IPFamilies); i++ {
		text := asked[i]
		if text == "" {
			a, err := w.NextAddress(ctx, s.Spec.IPFamilies[i])
			if errors.Is(err, alloc.ErrFull) {
				return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: %w", s.Name, err))
			}
			if err != nil {
				return refuse("failed to allocate IP: %v", err)
			}
			s.Spec.ClusterIPs[i] = a.String()
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to parse service IP %q", text))
		}
		if err := w.Address(ctx, a); err != nil {
			return refuse("failed to allocate IP %s: %v", text, err)
		}
	}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	return nil
}

func freeAddresses(w *alloc.Write, ips []string) {
	for _, ip := range ips {
		if a, err := netip.ParseAddr(ip); err == nil {
			w.FreeAddress(a)
		}
	}
}

// reservePorts takes the node ports s has and old has not, chooses those that
// are missing, and frees those only old has.
func reservePorts(ctx context.Context, w *alloc.Write, s, old *corev1.Service) error {
	mine := make(map[int32]bool)
	if old != nil {
		for _, port := range nodePorts(old) {
			mine[port] = true
		}
	}
	if hasNodePorts(s) {
		if err := reserveNodePorts(ctx, w, s, mine); err != nil {
			return err
		}
	}
	if hasHealthCheck(s) && (old == nil || !hasHealthCheck(old)) {
		if err := reserveHealthCheckPort(ctx, w, s); err != nil {
			return apierrors.NewInternalError(err)
		}
	}
	if old != nil {
		freePorts(w, old, s)
	}
	return nil
}

// reserveNodePorts gives every port its node port; mine are those the Service
// has already.
func reserveNodePorts(ctx context.Context, w *alloc.Write, s *corev1.Service, mine map[int32]bool) error {
	isNew := len(mine) == 0
	// The same port number with another protocol gets the same node port, as
	// DNS on TCP and UDP wants it.
	chosen, usedBy := make(map[int32]int32), make(map[int32]int32)
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 && chosen[p.Port] == 0 {
			chosen[p.Port] = p.NodePort
		}
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort == 0 && !wantsNodePorts(s) {
			continue
		}
		if p.NodePort == 0 {
			p.NodePort = free(chosen[p.Port], p, s.Spec.Ports[:i])
		}
		if p.NodePort == 0 {
			port, err := w.NextPort(ctx)
			if err != nil {
				return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
			}
			p.NodePort, chosen[p.Port], mine[port] = port, port, true
		}
		var err error
		if !mine[p.NodePort] {
			err = w.Port(ctx, p.NodePort)
		} else if by, ok := usedBy[p.NodePort]; ok && by != p.Port && isNew {
			err = alloc.ErrPortTaken
		}
		if err != nil {
			return invalidService(s, field.ErrorList{field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), p.NodePort, err.Error())})
		}
		mine[p.NodePort], usedBy[p.NodePort] = true, p.Port
	}
	return nil
}

// free is port, or 0 if one of the ports before p has it for the same protocol.
func free(port int32, p *corev1.ServicePort, before []corev1.ServicePort) int32 {
	for _, b := range before {
		if b.NodePort == port && b.Protocol == p.Protocol {
			return 0
		}
	}
	return port
}

// wantsNodePorts reports whether ports without a node port are given one.
func wantsNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || isLoadBalancer(s) && ptr.Deref(s.Spec.AllocateLoadBalancerNodePorts, true)
}

func reserveHealthCheckPort(ctx context.Context, w *alloc.Write, s *corev1.Service) error {
	if port := s.Spec.HealthCheckNodePort; port != 0 {
		if err := w.Port(ctx, port); err != nil {
			return fmt.Errorf("failed to allocate requested HealthCheck NodePort %d: %w", port, err)
		}
		return nil
	}
	port, err := w.NextPort(ctx)
	if err != nil {
		return fmt.Errorf("failed to allocate a HealthCheck NodePort %d: %w", port, err)
	}
	s.Spec.HealthCheckNodePort = port
	return nil
}

// freePorts frees the ports of old that s, if there is one, no longer has.
func freePorts(w *alloc.Write, old, s *corev1.Service) {
	var keep []int32
	if s != nil {
		keep = nodePorts(s)
	}
	for _, port := range nodePorts(old) {
		if !slices.Contains(keep, port) {
			w.FreePort(port)
		}
	}
}

// nodePorts are the ports a Service holds on every node, each once.
func nodePorts(s *corev1.Service) []int32 {
	var ports []int32
	add := func(port int32) {
		if port != 0 && !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	if hasNodePorts(s) {
		for _, p := range s.Spec.Ports {
			add(p.NodePort)
		}
	}
	if hasHealthCheck(s) {
		add(s.Spec.HealthCheckNodePort)
	}
	return ports
}

func invalidService(s *corev1.Service, errs field.ErrorList) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, errs)
}
