package proxy

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// changes are the Services about which something has changed.
type changes struct {
	there chan struct{} // has a token while there are some

	mu    sync.Mutex
	names map[string]bool
	node  bool // the node itself has
}

func newChanges() *changes {
	return &changes{there: make(chan struct{}, 1), names: make(map[string]bool)}
}

func (c *changes) note(name string) {
	c.mu.Lock()
	c.names[name] = true
	c.mu.Unlock()
	c.wake()
}

func (c *changes) noteNode() {
	c.mu.Lock()
	c.node = true
	c.mu.Unlock()
	c.wake()
}

func (c *changes) wake() {
	select {
	case c.there <- struct{}{}:
	default:
	}
}

// take is all until now.
func (c *changes) take() (names map[string]bool, node bool) {
	select { // what it stands for is part of this
	case <-c.there:
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	names, node = c.names, c.node
	c.names, c.node = make(map[string]bool), false
	return names, node
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
	case *corev1.Service:
		return o.Namespace + "/" + o.Name
	case *discoveryv1.EndpointSlice:
		return o.Namespace + "/" + o.Labels[discoveryv1.LabelServiceName]
	}
	return ""
}

// trim leaves of an object what the proxy reads. A large cluster has tens of
// thousands of them.
func trim(o any) (any, error) {
	switch o := o.(type) {
	case *corev1.Service:
		o.ObjectMeta = trimMeta(o.ObjectMeta, labelProxyName)
		o.Spec.Selector = nil
		o.Status.Conditions = nil
	case *discoveryv1.EndpointSlice:
		o.ObjectMeta = trimMeta(o.ObjectMeta, discoveryv1.LabelServiceName)
		for i := range o.Endpoints {
			e := &o.Endpoints[i]
			e.TargetRef, e.Hostname, e.Zone, e.DeprecatedTopology = nil, nil, nil, nil
		}
	}
	return o, nil
}

// trimMeta keeps one label, and what events about an object need.
func trimMeta(m metav1.ObjectMeta, label string) metav1.ObjectMeta {
	kept := metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, CreationTimestamp: m.CreationTimestamp,
	}
	if value, ok := m.Labels[label]; ok {
		kept.Labels = map[string]string{label: value}
	}
	return kept
}
