// Package fakenodes plays nodes that have no containers: they register, renew their leases, report their status,
// and their pods become Running, Ready, over, and gone as those of kubelets do. A cluster of a thousand such nodes
// fits into a process; it serves tests of controllers and of scale, and manifests that are tried without images.
//
// node.go has what a node says of itself, pod.go decides what becomes of a pod, purely. Nothing can be sent to a
// fake node or its pods: a node has no address, so logs and exec are refused, and addresses of pods lead nowhere.
package fakenodes

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/guard/clientgo"
)

// workers is how many pods, or nodes, are written about at once.
const workers = 16

// Bounds of the pause before a pod is tried again after an error: it doubles from the first to the second.
const (
	firstRetry = 10 * time.Millisecond
	lastRetry  = 10 * time.Second
)

// Config says which nodes to play.
type Config struct {
	Client kubernetes.Interface
	// Informers is started by the caller after New and before Run.
	Informers informers.SharedInformerFactory
	// Count is how many nodes there are: fake-node-1, fake-node-2, …
	Count int
	// Capacity is what each node offers; 32 processors, 256 GiB of memory, a TiB of disk and 110 pods. What is given
	// replaces single entries.
	Capacity corev1.ResourceList
	// Zones is how many zones the nodes are spread over, in turn; 3.
	Zones int
	// Taints are those of nodes that are new.
	Taints []corev1.Taint
	// Behave is how a pod behaves that says nothing of it by its annotations; nil: as the zero value of Behaviour.
	Behave func(*corev1.Pod) Behaviour
	// RenewEvery is how often a node renews its lease; 0 means every 10 seconds, as kubelets do. Nodes are lost that have not
	// for 50 seconds.
	RenewEvery time.Duration
	// Log gets what no object tells; nothing is logged without it.
	Log *slog.Logger
}

// Nodes plays the nodes of a Config.
type Nodes struct {
	config    Config
	ours      map[string]struct{} // names of the nodes
	nodes     corelisters.NodeLister
	pods      corelisters.PodLister
	synced    []cache.DoneChecker
	queue     workqueue.TypedRateLimitingInterface[cache.ObjectName]
	addresses *addresses
}

// New registers with the informers that it needs; Run starts the nodes.
func New(c Config) (*Nodes, error) {
	c = c.withDefaults()
	n := &Nodes{
		config: c, ours: make(map[string]struct{}, c.Count), addresses: newAddresses(),
		nodes: c.Informers.Core().V1().Nodes().Lister(), pods: c.Informers.Core().V1().Pods().Lister(),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[cache.ObjectName](firstRetry, lastRetry)),
	}
	for i := range c.Count {
		n.ours[nodeName(i)] = struct{}{}
	}
	pods := c.Informers.Core().V1().Pods().Informer()
	registration, err := pods.AddEventHandler(clientgo.Handler("fake nodes' events", cache.ResourceEventHandlerFuncs{
		AddFunc:    n.podChanged,
		UpdateFunc: func(_, obj any) { n.podChanged(obj) },
		DeleteFunc: n.podGone,
	}))
	if err != nil {
		return nil, err
	}
	n.synced = []cache.DoneChecker{registration.HasSyncedChecker(), c.Informers.Core().V1().Nodes().Informer().HasSyncedChecker()}
	return n, nil
}

func nodeName(i int) string { return fmt.Sprintf("fake-node-%d", i+1) }

func (n *Nodes) has(pod *corev1.Pod) bool {
	_, ok := n.ours[pod.Spec.NodeName]
	return ok
}

func (n *Nodes) podChanged(obj any) {
	if pod := obj.(*corev1.Pod); n.has(pod) {
		n.addresses.note(pod)
		n.queue.Add(cache.MetaObjectToName(pod))
	}
}

func (n *Nodes) podGone(obj any) {
	if missed, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = missed.Obj
	}
	if pod, ok := obj.(*corev1.Pod); ok && n.has(pod) {
		n.addresses.release(pod)
	}
}

// Run plays the nodes until ctx ends. Their objects stay, as those of nodes that are switched off.
func (n *Nodes) Run(ctx context.Context) error {
	defer n.queue.ShutDown() // it runs since New
	if !cache.WaitFor(ctx, "", n.synced...) {
		return nil
	}
	var group guard.Group
	for i := range workers {
		group.Go("fake nodes", func() {
			_ = guard.Keep(ctx, "fake nodes", func(ctx context.Context) error { n.keep(ctx, n.share(i)); return nil })
		})
		group.Go("pods of fake nodes", func() {
			for n.work(ctx) {
			}
		})
	}
	<-ctx.Done()
	n.queue.ShutDown()
	group.Wait()
	return nil
}

// share are the nodes that one of the workers keeps.
func (n *Nodes) share(worker int) []*keeper {
	var list []*keeper
	for i := worker; i < n.config.Count; i += workers {
		list = append(list, &keeper{Nodes: n, index: i, name: nodeName(i)})
	}
	return list
}

// work brings the next pod a step further; it is false when there will be none.
func (n *Nodes) work(ctx context.Context) bool {
	key, end := n.queue.Get()
	if end {
		return false
	}
	defer n.queue.Done(key)
	var again time.Duration
	err := guard.Call("pod of a fake node", func() (err error) { again, err = n.sync(ctx, key); return err })
	switch {
	case ctx.Err() != nil:
	case err != nil:
		if !apierrors.IsConflict(err) { // news of the pod are on their way
			n.config.Log.Warn("pod of a fake node", "pod", key, "error", err)
		}
		n.queue.AddRateLimited(key)
	default:
		n.queue.Forget(key)
		if again > 0 {
			n.queue.AddAfter(key, again)
		}
	}
	return true
}

// sync does what is due for a pod; again is when to look next if nothing happens.
func (n *Nodes) sync(ctx context.Context, key cache.ObjectName) (again time.Duration, err error) {
	pod, err := n.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	node, err := n.nodes.Get(pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return 0, nil // a node that was deleted is gone, with its pods
	}
	if err != nil {
		return 0, err
	}
	ips, ok := n.addresses.of(pod, node)
	if !ok {
		return rangeRetry, nil
	}
	next := decide(pod, n.config.Behave(pod), ips, time.Now())
	if !equality.Semantic.DeepEqual(pod.Status, next.status) {
		changed := pod.DeepCopy()
		changed.Status = next.status
		_, err := n.config.Client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
		if err != nil {
			return 0, ignoreNotFound(err)
		}
	}
	if next.remove {
		err := n.config.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: new(int64), Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
		})
		if apierrors.IsConflict(err) {
			return 0, nil // another pod has its name by now
		}
		return 0, ignoreNotFound(err)
	}
	return next.again, nil
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
