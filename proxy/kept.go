package proxy

import (
	"net/netip"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/family"
)

// A large cluster has tens of thousands of Services and slices. Informers keep of them what tables are computed from, in a
// tenth of the memory that the objects take.

// keep makes of an object of an informer what is kept of it.
func keep(o any) (any, error) {
	switch o := o.(type) {
	case *corev1.Service:
		return keepService(o), nil
	case *discoveryv1.EndpointSlice:
		return keepSlice(o), nil
	}
	return o, nil
}

// kept is what the store of an informer asks of an object. It asks for nothing else of
// metav1.Object, which is nil.
type kept struct {
	metav1.Object
	full            string // namespace/name, of which both others are parts
	namespaceLength int
	version         string
}

func newKept(m *metav1.ObjectMeta) kept {
	return kept{full: m.Namespace + "/" + m.Name, namespaceLength: len(m.Namespace), version: m.ResourceVersion}
}

func (k *kept) GetNamespace() string       { return k.full[:k.namespaceLength] }
func (k *kept) GetName() string            { return k.full[k.namespaceLength+1:] }
func (k *kept) GetResourceVersion() string { return k.version }

// keptService is a Service without what depends on endpoints or on the node.
type keptService struct {
	kept
	uid     types.UID
	created time.Time
	// rules have no endpoints. There are none if this proxy does not serve the Service.
	rules      []Rule
	healthPort uint16
}

// reference is the Service as events name it.
func (s *keptService) reference() *corev1.ObjectReference {
	return &corev1.ObjectReference{
		APIVersion: "v1", Kind: "Service", Namespace: s.GetNamespace(), Name: s.GetName(), UID: s.uid, ResourceVersion: s.version,
	}
}

func keepService(s *corev1.Service) *keptService {
	k := &keptService{kept: newKept(&s.ObjectMeta), uid: s.UID, created: s.CreationTimestamp.Time}
	if !served(s) {
		return k
	}
	addrs := clusterIPs(s)
	k.healthPort = uint16(s.Spec.HealthCheckNodePort)
	k.rules = make([]Rule, 0, len(addrs)*len(s.Spec.Ports))
	for _, ip := range addrs {
		for i := range s.Spec.Ports {
			k.rules = append(k.rules, bareRule(k.full, s, ip, &s.Spec.Ports[i]))
		}
	}
	return k
}

// keptSlice is an EndpointSlice.
type keptSlice struct {
	kept
	service   string // namespace/name
	family    corev1.IPFamily
	ports     []keptPort
	endpoints []keptEndpoint
}

type keptPort struct {
	name     string
	protocol corev1.Protocol
	number   uint16
}

// keptEndpoint is one with an address that can be served.
type keptEndpoint struct {
	addr                  netip.Addr
	node                  unique.Handle[string]
	ready, serving, going bool
	hints                 *keptHints
}

type keptHints struct{ zones, nodes []string }

func keepSlice(s *discoveryv1.EndpointSlice) *keptSlice {
	k := &keptSlice{
		kept: newKept(&s.ObjectMeta), service: s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName], family: corev1.IPFamily(s.AddressType),
		ports: make([]keptPort, 0, len(s.Ports)), endpoints: make([]keptEndpoint, 0, len(s.Endpoints)),
	}
	for _, p := range s.Ports {
		if number := ptr.Deref(p.Port, 0); number != 0 {
			name, protocol := ptr.Deref(p.Name, ""), ptr.Deref(p.Protocol, corev1.ProtocolTCP)
			k.ports = append(k.ports, keptPort{unique.Make(name).Value(), corev1.Protocol(unique.Make(string(protocol)).Value()), uint16(number)})
		}
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if len(e.Addresses) == 0 {
			continue
		}
		addr := address(e.Addresses[0]) // all stand for the same
		if family.Of(addr) != k.family {
			continue
		}
		k.endpoints = append(k.endpoints, keptEndpoint{
			addr: addr, node: unique.Make(ptr.Deref(e.NodeName, "")), hints: keepHints(e.Hints),
			ready: ptr.Deref(e.Conditions.Ready, true), serving: ptr.Deref(e.Conditions.Serving, true), going: ptr.Deref(e.Conditions.Terminating, false),
		})
	}
	return k
}

func keepHints(h *discoveryv1.EndpointHints) *keptHints {
	if h == nil {
		return nil
	}
	k := &keptHints{}
	for _, z := range h.ForZones {
		k.zones = append(k.zones, unique.Make(z.Name).Value())
	}
	for _, n := range h.ForNodes {
		k.nodes = append(k.nodes, unique.Make(n.Name).Value())
	}
	return k
}

// byService is the index of slices by the namespace/name of their Service.
const byService = "service"

// serviceOf is the namespace/name of the Service that an object of an informer is
// or belongs to.
func serviceOf(o any) string {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	switch o := o.(type) {
	case *keptService:
		return o.full
	case *keptSlice:
		return o.service
	}
	return ""
}
