package nodes

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Eviction deletes pods from nodes with a NoExecute taint that they do not tolerate, or not for longer. It is
// woken by a pod that is bound or changes its tolerations, and by a node whose taints change, and sleeps until a
// pod's toleration ends.
func Eviction(d Deps) (reconcile.Controller, error) {
	pods := d.Informers.Core().V1().Pods()
	nodes := d.Informers.Core().V1().Nodes()
	index, err := indexByNode(pods.Informer())
	if err != nil {
		return reconcile.Controller{}, err
	}
	e := &eviction{
		client: d.Client, pods: pods.Lister(), nodes: nodes.Lister(), podIndex: index,
		events: d.Recorder("taint-eviction-controller"),
		since:  map[types.UID]time.Time{},
	}
	return reconcile.Controller{
		Name:    "TaintEviction",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.On(pods.Informer(), e.podChanged),
			reconcile.On(nodes.Informer(), e.nodeChanged),
		},
		Sync: e.sync,
	}, nil
}

type eviction struct {
	client   kubernetes.Interface
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
	podIndex cache.Indexer
	events   record.EventRecorder

	mu    sync.Mutex
	since map[types.UID]time.Time // when a pod was first seen to tolerate only for a time
}

func (e *eviction) podChanged(old, pod *corev1.Pod) []reconcile.Key {
	switch {
	case pod == nil:
		e.settle(old)
		return nil
	case pod.Spec.NodeName == "" || pod.DeletionTimestamp != nil:
		return nil
	case old != nil && old.Spec.NodeName == pod.Spec.NodeName && equality.Semantic.DeepEqual(old.Spec.Tolerations, pod.Spec.Tolerations):
		return nil
	}
	return []reconcile.Key{reconcile.KeyOf(pod)}
}

func (e *eviction) nodeChanged(old, node *corev1.Node) []reconcile.Key {
	if node == nil || old != nil && equality.Semantic.DeepEqual(noExecute(old), noExecute(node)) || old == nil && len(noExecute(node)) == 0 {
		return nil
	}
	pods, err := podsOn(e.podIndex, node.Name)
	if err != nil {
		return nil
	}
	keys := make([]reconcile.Key, 0, len(pods))
	for _, pod := range pods {
		keys = append(keys, reconcile.KeyOf(pod))
	}
	return keys
}

func noExecute(node *corev1.Node) []corev1.Taint {
	var taints []corev1.Taint
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			taints = append(taints, t)
		}
	}
	return taints
}

func (e *eviction) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	pod, err := e.pods.Pods(key.Namespace).Get(key.Name)
	if err != nil || pod.DeletionTimestamp != nil || pod.Spec.NodeName == "" {
		return 0, nil
	}
	node, err := e.nodes.Get(pod.Spec.NodeName)
	if err != nil {
		return 0, reconcile.IgnoreNotFound(err) // its pods are PodGC's
	}
	stays, limit := tolerates(pod.Spec.Tolerations, noExecute(node))
	if stays {
		if e.settle(pod) {
			e.events.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod %s/%s", pod.Namespace, pod.Name)
		}
		return 0, nil
	}
	if left := time.Until(e.begin(pod).Add(limit)); left > 0 {
		return left, nil
	}
	e.events.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", pod.Namespace, pod.Name)
	if err := disrupt(ctx, e.client, pod, "", "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"); err != nil {
		return 0, err
	}
	return 0, deletePod(ctx, e.client, pod, -1)
}

// begin returns since when a pod is tolerated only for a time.
func (e *eviction) begin(pod *corev1.Pod) time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.since[pod.UID]; !ok {
		e.since[pod.UID] = time.Now()
	}
	return e.since[pod.UID]
}

// settle forgets a pod, and tells whether its eviction was planned.
func (e *eviction) settle(pod *corev1.Pod) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, planned := e.since[pod.UID]
	delete(e.since, pod.UID)
	return planned
}

// tolerates tells whether a pod may stay for ever under these taints, and else for how long: the shortest time of
// all tolerations that are needed, nothing if one is missing.
func tolerates(tolerations []corev1.Toleration, taints []corev1.Taint) (forever bool, limit time.Duration) {
	forever = true
	for i := range taints {
		tolerated := false
		for j := range tolerations {
			t := &tolerations[j]
			if !t.ToleratesTaint(klog.Background(), &taints[i], false) {
				continue
			}
			tolerated = true
			if t.TolerationSeconds == nil {
				continue
			}
			if seconds := time.Duration(max(*t.TolerationSeconds, 0)) * time.Second; forever || seconds < limit {
				forever, limit = false, seconds
			}
		}
		if !tolerated {
			return false, 0
		}
	}
	return forever, limit
}
