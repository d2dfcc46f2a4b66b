package cluster

import (
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// followRoutes keeps a route on the host to the pods of every node that lives
// in a namespace. The nodes themselves need none: they send all by the host.
func (r *run) followRoutes(ctx context.Context, members []member) error {
	vias := make(map[string]netip.Addr)
	for _, m := range members {
		if m.namespace != "" {
			vias[m.Name] = m.Address
		}
	}
	client, err := kubernetes.NewForConfig(r.plane.config(adminUser))
	if err != nil {
		return err
	}
	apply := func(obj any) {
		n, ok := obj.(*corev1.Node)
		if !ok || n.Spec.PodCIDR == "" || !vias[n.Name].IsValid() {
			return
		}
		pods, err := netip.ParsePrefix(n.Spec.PodCIDR)
		if err == nil {
			err = route(pods, vias[n.Name])
		}
		if err != nil {
			r.Log.Error("route to the pods of a node", "node", n.Name, "pods", n.Spec.PodCIDR, "error", err)
		}
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "nodes", metav1.NamespaceAll, fields.Everything()),
		ObjectType:    &corev1.Node{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    apply,
			UpdateFunc: func(_, obj any) { apply(obj) },
		},
	})
	informer.RunWithContext(ctx)
	return nil
}
