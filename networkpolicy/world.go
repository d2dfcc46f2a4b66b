package networkpolicy

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// World is what a node knows of policies, pods and namespaces. It is told of one change at a time, and works
// out again only what the change is about; Table says what follows from it all. It is not safe for concurrent
// use.
type World struct {
	node       string
	namespaces map[string]labels.Set
	pods       map[types.UID]*pod
	within     map[string]map[*pod]bool // pods by namespace
	policies   map[string]map[string]*policy
	ids        uint64 // the last one given

	// What profiles of this node's pods name. Nothing else of the policies matters to the node.
	selectors map[string]*selectorUse
	names     map[portName]int // ports of peers, and how many profiles name them

	profiles map[string]*profileUse
	classes  map[string]*classUse
	// generation counts the classes that came and went, on which profiles depend.
	generation uint64
}

// pod is a pod and what follows for it.
type pod struct {
	facts
	claimed  []netip.Addr // what the kubelet said, which counts more than the status
	seen     bool         // in the API, not from the kubelet alone
	gone     bool         // from the API, but not from the node
	chosen   []*selectorUse
	class    *classUse
	profiles [2]*profileUse
}

// facts are what policies can know of a pod.
type facts struct {
	uid       types.UID
	namespace string
	labels    labels.Set
	created   time.Time
	addresses []netip.Addr
	names     map[portName]uint16
	local     bool // on this node
	// concerned pods can be isolated, and be peers: those on the host's network have the node's address, and
	// those that ended have none, whatever their status says.
	concerned bool
}

// NewWorld is the world of a node that knows of nothing.
func NewWorld(node string) *World {
	return &World{
		node: node, namespaces: make(map[string]labels.Set), pods: make(map[types.UID]*pod), within: make(map[string]map[*pod]bool),
		policies: make(map[string]map[string]*policy), selectors: make(map[string]*selectorUse), names: make(map[portName]int),
		profiles: make(map[string]*profileUse), classes: make(map[string]*classUse),
	}
}

func (w *World) id() uint64 {
	w.ids++
	return w.ids
}

// SetNamespace says that a namespace is there, or has other labels; it reports whether that matters.
func (w *World) SetNamespace(n *corev1.Namespace) bool {
	old, there := w.namespaces[n.Name]
	if there && maps.Equal(old, n.Labels) {
		return false
	}
	w.namespaces[n.Name] = known(n.Labels)
	w.chooseWithin(n.Name)
	return true
}

// known are labels that are not nil, as those of an unknown namespace are.
func known(s labels.Set) labels.Set {
	if s == nil {
		return labels.Set{}
	}
	return maps.Clone(s)
}

// DeleteNamespace says that a namespace is gone.
func (w *World) DeleteNamespace(name string) {
	delete(w.namespaces, name)
	w.chooseWithin(name)
}

func (w *World) chooseWithin(namespace string) {
	for p := range w.within[namespace] {
		w.choose(p)
	}
}

// SetPolicy says what a policy is; it reports whether that matters.
func (w *World) SetPolicy(object *networkingv1.NetworkPolicy) bool {
	old := w.policies[object.Namespace][object.Name]
	if old != nil && equality.Semantic.DeepEqual(old.spec, &object.Spec) {
		return false
	}
	if w.policies[object.Namespace] == nil {
		w.policies[object.Namespace] = make(map[string]*policy)
	}
	p := readPolicy(w.id(), object)
	w.policies[object.Namespace][object.Name] = p
	w.isolateWithin(object.Namespace, old, p)
	return true
}

// DeletePolicy says that a policy is gone.
func (w *World) DeletePolicy(namespace, name string) {
	old := w.policies[namespace][name]
	delete(w.policies[namespace], name)
	if len(w.policies[namespace]) == 0 {
		delete(w.policies, namespace)
	}
	w.isolateWithin(namespace, old)
}

// isolateWithin finds the profiles of pods that one of the policies selects, or selected.
func (w *World) isolateWithin(namespace string, changed ...*policy) {
	for p := range w.within[namespace] {
		if p.local && p.concerned && slices.ContainsFunc(changed, func(c *policy) bool { return c != nil && c.subject.Matches(p.labels) }) {
			w.isolate(p)
		}
	}
}

// SetPod says what a pod is in the API; it reports whether that matters.
func (w *World) SetPod(object *corev1.Pod) bool {
	matters := w.setPod(object)
	w.pods[object.UID].seen = true
	return matters
}

func (w *World) setPod(object *corev1.Pod) bool {
	next := w.facts(object)
	p := w.pods[next.uid]
	if p == nil {
		p = &pod{facts: next}
		w.pods[next.uid] = p
		if w.within[next.namespace] == nil {
			w.within[next.namespace] = make(map[*pod]bool)
		}
		w.within[next.namespace][p] = true
	} else if reflect.DeepEqual(p.facts, next) {
		return false
	}
	p.facts = next
	w.choose(p)
	w.isolate(p)
	return true
}

// DeletePod says that a pod is gone from the API. If the kubelet has claimed addresses for it, it is isolated
// until they are released.
func (w *World) DeletePod(uid types.UID) {
	p := w.pods[uid]
	if p == nil {
		return
	}
	if len(p.claimed) > 0 {
		p.gone = true
		return
	}
	w.forget(p)
}

func (w *World) forget(p *pod) {
	p.concerned = false
	w.choose(p)
	w.isolate(p)
	delete(w.pods, p.uid)
	delete(w.within[p.namespace], p)
	if len(w.within[p.namespace]) == 0 {
		delete(w.within, p.namespace)
	}
}

// Claim says that a pod of this node has addresses, before the API knows of them; it reports whether that is
// news.
func (w *World) Claim(object *corev1.Pod, addresses []netip.Addr) bool {
	p := w.pods[object.UID]
	if p != nil && slices.Equal(p.claimed, addresses) {
		return false
	}
	if p == nil {
		w.setPod(object)
		p = w.pods[object.UID]
	}
	p.claimed = slices.Clone(addresses)
	return true
}

// Release says that the addresses claimed for a pod are nobody's now; it reports whether there were any.
func (w *World) Release(uid types.UID) bool {
	p := w.pods[uid]
	if p == nil || len(p.claimed) == 0 {
		return false
	}
	p.claimed = nil
	p.addresses = nil // the status says it late; a new sandbox is claimed anew
	if p.gone || !p.seen {
		w.forget(p)
	}
	return true
}

// HasPolicies reports whether there is any policy in the cluster.
func (w *World) HasPolicies() bool { return len(w.policies) > 0 }

func (w *World) facts(object *corev1.Pod) facts {
	f := facts{
		uid: object.UID, namespace: object.Namespace, labels: object.Labels, created: object.CreationTimestamp.Time,
		names: portNames(&object.Spec), local: object.Spec.NodeName == w.node,
	}
	f.concerned = !object.Spec.HostNetwork && object.Status.Phase != corev1.PodSucceeded && object.Status.Phase != corev1.PodFailed
	for _, ip := range object.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			f.addresses = append(f.addresses, addr.Unmap())
		}
	}
	return f
}

// owned are the pod's addresses.
func (p *pod) owned() []netip.Addr {
	switch {
	case !p.concerned:
		return nil
	case len(p.claimed) > 0:
		return p.claimed
	}
	return p.addresses
}

// outranks tells to whom an address belongs that two pods claim: the status of one that is ending is late.
func (p *pod) outranks(other *pod) bool {
	if claims := len(p.claimed) > 0; claims != (len(other.claimed) > 0) {
		return claims
	}
	if !p.created.Equal(other.created) {
		return p.created.After(other.created)
	}
	return p.uid > other.uid
}

// Table is what the node is to enforce now. What has not changed since the last Table is the same Profile.
func (w *World) Table() *Table {
	t := &Table{Classes: make(map[netip.Addr]Class, len(w.pods))}
	owners := make(map[netip.Addr]*pod, len(w.pods))
	for _, p := range w.pods {
		for _, addr := range p.owned() {
			if other := owners[addr]; other == nil || p.outranks(other) {
				owners[addr] = p
			}
		}
	}
	for d := range t.Isolated {
		t.Isolated[d] = make(map[netip.Addr]*Profile)
	}
	for addr, p := range owners {
		if p.class != nil {
			t.Classes[addr] = p.class.id
		}
		for d, use := range p.profiles {
			if use != nil {
				t.Isolated[d][addr] = use.profile(w, owners)
			}
		}
	}
	return t
}
