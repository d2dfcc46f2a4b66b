package podnet

import (
	"context"
	"net/netip"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// follower knows the nodes; while the API is away, as they were known last.
type follower struct {
	store    cache.Store
	informer cache.Controller
	// changed gets a value when list may be another one.
	changed chan struct{}
}

func newFollower(client kubernetes.Interface) *follower {
	f := &follower{changed: make(chan struct{}, 1)}
	f.store, f.informer = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "nodes", metav1.NamespaceAll, fields.Everything()),
		ObjectType:    &corev1.Node{},
		Transform:     func(obj any) (any, error) { return reduce(obj), nil },
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { f.tell() },
			UpdateFunc: func(old, obj any) {
				if !reflect.DeepEqual(told(old), told(obj)) {
					f.tell()
				}
			},
			DeleteFunc: func(any) { f.tell() },
		},
	})
	return f
}

func (f *follower) run(ctx context.Context) { f.informer.RunWithContext(ctx) }

// synced returns true when all nodes are known: before, none may be taken for gone. It returns false when ctx ends.
func (f *follower) synced(ctx context.Context) bool {
	return cache.WaitForCacheSync(ctx.Done(), f.informer.HasSynced)
}

func (f *follower) tell() {
	select {
	case f.changed <- struct{}{}:
	default: // the last one is still to be looked at
	}
}

func (f *follower) list() []Node {
	var all []Node
	for _, obj := range f.store.List() {
		all = append(all, told(obj))
	}
	return all
}

// reduce keeps of a Node what told reads; there may be thousands.
func reduce(obj any) any {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return obj
	}
	small := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, ResourceVersion: n.ResourceVersion}}
	small.Spec.PodCIDR, small.Spec.PodCIDRs = n.Spec.PodCIDR, n.Spec.PodCIDRs
	small.Status.Addresses = n.Status.Addresses
	return small
}

// told is what a Node object says of a node. What is no range or no address is left out, so that it is missed.
func told(obj any) Node {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return Node{}
	}
	node := Node{Name: n.Name}
	for _, text := range n.Spec.PodCIDRs {
		if pods, err := netip.ParsePrefix(text); err == nil {
			node.Pods = append(node.Pods, pods.Masked())
		}
	}
	for _, a := range n.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			node.Addresses = append(node.Addresses, addr.Unmap())
		}
	}
	return node
}
