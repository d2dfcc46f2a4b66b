package kubelet

import (
	"context"
	"errors"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listersv1 "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/guard/clientgo"
)

// sources are the watches the kubelet lives from: the pods bound to the node, the node, all services.
type sources struct {
	factories []informers.SharedInformerFactory
	pods      cache.SharedIndexInformer
	node      cache.SharedIndexInformer
	services  listersv1.ServiceLister
	served    cache.InformerSynced
}

func newSources(client kubernetes.Interface, nodeName string) *sources {
	selected := func(selector string) informers.SharedInformerFactory {
		return informers.NewSharedInformerFactoryWithOptions(client, 0,
			informers.WithTransform(withoutManagedFields),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = selector }))
	}
	podsHere := selected(byNode("spec.nodeName", nodeName))
	thisNode := selected(byNode("metadata.name", nodeName))
	everything := selected("")
	services := everything.Core().V1().Services()
	return &sources{
		factories: []informers.SharedInformerFactory{podsHere, thisNode, everything},
		pods:      podsHere.Core().V1().Pods().Informer(),
		node:      thisNode.Core().V1().Nodes().Informer(),
		services:  services.Lister(),
		served:    services.Informer().HasSynced,
	}
}

// withoutManagedFields drops what the kubelet never looks at.
func withoutManagedFields(obj any) (any, error) {
	if o, ok := obj.(metav1.Object); ok {
		o.SetManagedFields(nil)
	}
	return obj, nil
}

// Services are all services known.
func (s *sources) Services() []*v1.Service {
	list, err := s.services.List(labels.Everything())
	if err != nil {
		return nil // a lister over a cache has no errors
	}
	return list
}

// run feeds the parts until ctx ends.
func (s *sources) run(ctx context.Context, k *Kubelet) error {
	if _, err := s.node.AddEventHandler(clientgo.Handler("kubelet's events", cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { k.node.Saw(obj.(*v1.Node)) },
		UpdateFunc: func(_, obj any) { k.node.Saw(obj.(*v1.Node)) },
	})); err != nil {
		return err
	}
	for _, f := range s.factories {
		f.Start(ctx.Done())
		defer f.Shutdown()
	}
	// A container's environment names the services there are when it starts.
	if !cache.WaitForCacheSync(ctx.Done(), s.served, s.node.HasSynced) {
		return nil
	}
	handler, err := s.pods.AddEventHandler(clientgo.Handler("kubelet's events", cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { k.podChanged(ctx, obj.(*v1.Pod)) },
		UpdateFunc: func(_, obj any) { k.podChanged(ctx, obj.(*v1.Pod)) },
		DeleteFunc: func(obj any) {
			if lost, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = lost.Obj
			}
			if pod, ok := obj.(*v1.Pod); ok {
				k.pods.Gone(pod.UID)
			}
		},
	}))
	if err != nil {
		return err
	}
	if !cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
		return nil
	}
	return s.sweep(ctx, k)
}

// sweep now and then clears away pods that only the runtime and the disk know.
func (s *sources) sweep(ctx context.Context, k *Kubelet) error {
	for {
		if err := k.pods.Adopt(ctx); err != nil && !errors.Is(err, context.Canceled) {
			slog.Warn("orphaned pods not looked for", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Minute):
		}
	}
}

func (k *Kubelet) podChanged(ctx context.Context, pod *v1.Pod) {
	k.volumes.Update(pod)
	k.pods.Sync(ctx, pod)
}
