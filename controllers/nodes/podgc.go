package nodes

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// quarantine is how long a node must be gone before its pods are: it may only be registering anew.
const quarantine = 40 * time.Second

// tooMany is the key of the work on all ended pods together.
var tooMany = reconcile.Key{Name: "terminated"}

// PodGC deletes pods that no kubelet will ever finish: those bound to a node that is gone, or that an operator
// declared out of service, those deleted before they were bound, and, if more than keep pods have ended, the
// oldest of them. It is woken by such a pod and by a node that goes.
func PodGC(d Deps, keep int) (reconcile.Controller, error) {
	pods := d.Informers.Core().V1().Pods()
	nodes := d.Informers.Core().V1().Nodes()
	index, err := indexByNode(pods.Informer())
	if err != nil {
		return reconcile.Controller{}, err
	}
	g := &podGC{
		client: d.Client, pods: pods.Lister(), nodes: nodes.Lister(), podIndex: index, keep: keep,
		gone: map[string]time.Time{}, ended: map[reconcile.Key]bool{},
	}
	return reconcile.Controller{
		Name:    "PodGC",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.On(pods.Informer(), g.podChanged),
			reconcile.On(nodes.Informer(), g.nodeChanged),
		},
		Sync: g.sync,
	}, nil
}

type podGC struct {
	client   kubernetes.Interface
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
	podIndex cache.Indexer
	keep     int

	mu    sync.Mutex
	gone  map[string]time.Time   // nodes that pods name and that are not there, since when
	ended map[reconcile.Key]bool // pods that have ended
}

func (g *podGC) podChanged(old, pod *corev1.Pod) []reconcile.Key {
	if pod == nil {
		g.noteEnded(old, false)
		return nil
	}
	keys := []reconcile.Key{}
	if g.noteEnded(pod, finished(pod)) {
		keys = append(keys, tooMany)
	}
	if pod.Spec.NodeName == "" {
		if pod.DeletionTimestamp != nil {
			keys = append(keys, reconcile.KeyOf(pod))
		}
		return keys
	}
	if node, err := g.nodes.Get(pod.Spec.NodeName); err != nil || pod.DeletionTimestamp != nil && outOfService(node) {
		keys = append(keys, reconcile.KeyOf(pod))
	}
	return keys
}

// noteEnded counts ended pods and tells whether they have become too many.
func (g *podGC) noteEnded(pod *corev1.Pod, ended bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := reconcile.KeyOf(pod)
	if !ended {
		delete(g.ended, key)
		return false
	}
	if g.ended[key] {
		return false
	}
	g.ended[key] = true
	return g.keep > 0 && len(g.ended) > g.keep
}

func (g *podGC) nodeChanged(old, node *corev1.Node) []reconcile.Key {
	if node == nil {
		return g.podsOn(old.Name)
	}
	g.mu.Lock()
	delete(g.gone, node.Name)
	g.mu.Unlock()
	if !outOfService(node) {
		return nil
	}
	return g.podsOn(node.Name)
}

func (g *podGC) podsOn(node string) []reconcile.Key {
	pods, err := podsOn(g.podIndex, node)
	if err != nil {
		return nil
	}
	var keys []reconcile.Key
	for _, pod := range pods {
		keys = append(keys, reconcile.KeyOf(pod))
	}
	return keys
}

// outOfService tells whether an operator has said that a node is down for good, and it is not ready (KEP-2268).
func outOfService(node *corev1.Node) bool {
	return readiness(node) != corev1.ConditionTrue && slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeOutOfService
	})
}

func (g *podGC) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	if key == tooMany {
		return 0, g.deleteOldest(ctx)
	}
	pod, err := g.pods.Pods(key.Namespace).Get(key.Name)
	if err != nil {
		return 0, reconcile.IgnoreNotFound(err)
	}
	if pod.Spec.NodeName == "" {
		if pod.DeletionTimestamp == nil {
			return 0, nil
		}
		return 0, deletePod(ctx, g.client, pod, 0)
	}
	node, err := g.nodes.Get(pod.Spec.NodeName)
	switch {
	case err == nil && pod.DeletionTimestamp != nil && outOfService(node):
		return 0, g.end(ctx, pod, "PodGC: node is out of service")
	case err == nil:
		return 0, nil
	case !apierrors.IsNotFound(err):
		return 0, err
	}
	return g.collectOrphan(ctx, pod)
}

// collectOrphan ends a pod whose node is gone, after a while, and after asking the server itself.
func (g *podGC) collectOrphan(ctx context.Context, pod *corev1.Pod) (time.Duration, error) {
	g.mu.Lock()
	since, ok := g.gone[pod.Spec.NodeName]
	if !ok {
		since = time.Now()
		g.gone[pod.Spec.NodeName] = since
	}
	g.mu.Unlock()
	if left := time.Until(since.Add(quarantine)); left > 0 {
		return left, nil
	}
	_, err := g.client.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return 0, err
	}
	return 0, g.end(ctx, pod, "PodGC: node no longer exists")
}

// end fails a pod, unless it has ended already, and removes it at once.
func (g *podGC) end(ctx context.Context, pod *corev1.Pod, why string) error {
	if !finished(pod) {
		if err := disrupt(ctx, g.client, pod, corev1.PodFailed, "DeletionByPodGC", why); err != nil {
			return err
		}
	}
	return deletePod(ctx, g.client, pod, 0)
}

// deleteOldest deletes the pods that have ended beyond the number to keep.
func (g *podGC) deleteOldest(ctx context.Context) error {
	pods, err := g.pods.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, pod := range oldestEnded(pods, g.keep) {
		if err := deletePod(ctx, g.client, pod, 0); err != nil {
			return err
		}
	}
	return nil
}

// oldestEnded returns all ended pods but the newest keep.
func oldestEnded(pods []*corev1.Pod, keep int) []*corev1.Pod {
	ended := slices.DeleteFunc(slices.Clone(pods), func(pod *corev1.Pod) bool { return !finished(pod) || pod.DeletionTimestamp != nil })
	if len(ended) <= keep {
		return nil
	}
	slices.SortFunc(ended, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return ended[:len(ended)-keep]
}
