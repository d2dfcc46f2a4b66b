package node

import (
	"context"
	"log/slog"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// FollowPodCIDRs tells apply which share of the pod range a node has, of every
// node that is chosen and has one, whenever the node changes, until ctx ends.
// Errors of apply are logged; the next change of the node is the next try.
func FollowPodCIDRs(ctx context.Context, config *rest.Config, chosen fields.Selector, log *slog.Logger, apply func(node string, pods netip.Prefix) error) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	saw := func(obj any) {
		node, ok := obj.(*corev1.Node)
		if !ok || node.Spec.PodCIDR == "" {
			return
		}
		pods, err := netip.ParsePrefix(node.Spec.PodCIDR)
		if err == nil {
			err = apply(node.Name, pods)
		}
		if err != nil {
			log.Error("set up the range of a node's pods", "node", node.Name, "pods", node.Spec.PodCIDR, "error", err)
		}
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "nodes", metav1.NamespaceAll, chosen),
		ObjectType:    &corev1.Node{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    saw,
			UpdateFunc: func(_, obj any) { saw(obj) },
		},
	})
	informer.RunWithContext(ctx)
	return nil
}
