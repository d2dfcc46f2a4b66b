package networkpolicy

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// policy is a NetworkPolicy that has been read.
type policy struct {
	id       uint64 // of this content, never given again
	spec     *networkingv1.NetworkPolicySpec
	subject  labels.Selector
	isolates [2]bool
	rules    [2][]rule
}

// rule allows ports to peers.
type rule struct {
	anyone bool // there are no peers named
	pods   []choice
	blocks [][]span
	ports  []Ports
	names  []portName
}

// choice chooses pods.
type choice struct {
	namespace  string          // the only one, unless namespaces is set
	namespaces labels.Selector // of namespaces
	pods       labels.Selector
}

// key is the same for choices that mean the same.
func (c choice) key() string {
	if c.namespaces == nil {
		return "in " + c.namespace + ": " + text(c.pods)
	}
	return "of " + text(c.namespaces) + ": " + text(c.pods)
}

// text differs for selectors that differ, which String does not for those of everything and nothing.
func text(s labels.Selector) string {
	if s.Empty() {
		return "*"
	}
	return s.String()
}

func (c choice) matches(namespace string, namespaceLabels, podLabels labels.Set) bool {
	if c.namespaces == nil && c.namespace != namespace {
		return false
	}
	// A namespace that is not known yet is in no selection, not even in that of all.
	if c.namespaces != nil && (namespaceLabels == nil || !c.namespaces.Matches(namespaceLabels)) {
		return false
	}
	return c.pods.Matches(podLabels)
}

// readPolicy never fails: the API has validated. What is not understood selects nobody and allows nothing.
func readPolicy(id uint64, object *networkingv1.NetworkPolicy) *policy {
	spec := object.Spec.DeepCopy()
	p := &policy{id: id, spec: spec, subject: selector(&spec.PodSelector)}
	types := spec.PolicyTypes
	if len(types) == 0 {
		types = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(spec.Egress) > 0 {
			types = append(types, networkingv1.PolicyTypeEgress)
		}
	}
	for _, t := range types {
		switch t {
		case networkingv1.PolicyTypeIngress:
			p.isolates[Ingress] = true
			for _, r := range spec.Ingress {
				p.rules[Ingress] = append(p.rules[Ingress], readRule(object.Namespace, r.From, r.Ports))
			}
		case networkingv1.PolicyTypeEgress:
			p.isolates[Egress] = true
			for _, r := range spec.Egress {
				p.rules[Egress] = append(p.rules[Egress], readRule(object.Namespace, r.To, r.Ports))
			}
		}
	}
	return p
}

func selector(s *metav1.LabelSelector) labels.Selector {
	read, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return read
}

func readRule(namespace string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) rule {
	r := rule{anyone: len(peers) == 0}
	for i := range peers {
		peer := &peers[i]
		if peer.IPBlock != nil {
			r.blocks = append(r.blocks, spans(peer.IPBlock))
			continue
		}
		c := choice{namespace: namespace, pods: labels.Everything()}
		if peer.NamespaceSelector != nil {
			c.namespace, c.namespaces = "", selector(peer.NamespaceSelector)
		}
		if peer.PodSelector != nil {
			c.pods = selector(peer.PodSelector)
		}
		r.pods = append(r.pods, c)
	}
	if len(ports) == 0 {
		r.ports = []Ports{Everything}
	}
	for i := range ports {
		r.readPort(&ports[i])
	}
	return r
}

func (r *rule) readPort(p *networkingv1.NetworkPolicyPort) {
	protocol := corev1.ProtocolTCP
	if p.Protocol != nil {
		protocol = cmp.Or(*p.Protocol, protocol)
	}
	number, ok := protocolNumber(protocol)
	switch {
	case !ok:
	case p.Port == nil:
		r.ports = append(r.ports, Ports{number, number, 0, 65535})
	case p.Port.Type == intstr.String:
		r.names = append(r.names, portName{p.Port.StrVal, number})
	default:
		first := uint16(p.Port.IntVal)
		last := first
		if p.EndPort != nil {
			last = max(first, uint16(*p.EndPort))
		}
		r.ports = append(r.ports, Ports{number, number, first, last})
	}
}
