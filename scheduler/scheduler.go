// Package scheduler binds pods to nodes. It is a client of the API like any
// other: informers tell it of pods and nodes, and each cycle takes one pod and a
// snapshot of the cluster, chooses a node by the rules in package plugin, and
// binds the pod there. What cannot be placed waits until the cluster changes.
package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"

	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/scheduler/plugin"
)

// Name is the scheduler that pods ask for unless they say otherwise.
const Name = corev1.DefaultSchedulerName

// mostWriting is about how many pods that could not be placed the scheduler writes at once.
const mostWriting = 32

// Config says what a scheduler needs; all fields but Log are required.
type Config struct {
	Client kubernetes.Interface
	// Informers is started by the caller after New and before Run.
	Informers informers.SharedInformerFactory
	// Log gets what no event or status tells; nothing is logged without it.
	Log *slog.Logger
}

// Scheduler places pods.
type Scheduler struct {
	client   kubernetes.Interface
	log      *slog.Logger
	events   events.EventBroadcaster
	recorder events.EventRecorder
	state    *state
	devices  *ledger
	given    givenVolumes
	queue    *queue
	synced   []cache.DoneChecker
	budgets  func() ([]*policyv1.PodDisruptionBudget, error)
	bindings guard.Group
	writing  chan struct{} // has as many as write about pods that could not be placed
	start    int           // where the next cycle begins to look for a node
}

// New registers the scheduler with the informers it needs.
func New(c Config) (*Scheduler, error) {
	s := &Scheduler{client: c.Client, log: c.Log, state: newState(), queue: newQueue(), writing: make(chan struct{}, mostWriting)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.events = events.NewBroadcaster(&events.EventSinkImpl{Interface: c.Client.EventsV1()})
	s.recorder = s.events.NewRecorder(scheme.Scheme, Name)
	namespaces := c.Informers.Core().V1().Namespaces()
	s.state.namespaceLabels = func(name string) labels.Set {
		ns, err := namespaces.Lister().Get(name)
		if err != nil {
			return nil
		}
		return ns.Labels
	}
	s.state.ownerSelector = ownerSelector(c.Informers)
	s.synced = append(s.synced, c.Informers.Core().V1().Services().Informer().HasSyncedChecker())
	if err := s.stirOn(namespaces.Informer()); err != nil {
		return nil, err
	}
	if err := s.followStorage(c.Informers); err != nil {
		return nil, err
	}
	if err := s.followDevices(c.Informers); err != nil {
		return nil, err
	}
	if err := s.followNodes(c.Informers.Core().V1().Nodes().Informer()); err != nil {
		return nil, err
	}
	if err := s.followPods(c.Informers.Core().V1().Pods().Informer()); err != nil {
		return nil, err
	}
	return s, s.followBudgets(c)
}

// followBudgets watches PodDisruptionBudgets if the server has that kind.
func (s *Scheduler) followBudgets(c Config) error {
	served, err := discovery.IsResourceEnabled(c.Client.Discovery(), schema.GroupVersionResource{Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"})
	if err != nil {
		return fmt.Errorf("ask whether disruption budgets are served: %w", err)
	}
	if !served {
		s.budgets = func() ([]*policyv1.PodDisruptionBudget, error) { return nil, nil }
		return nil
	}
	budgets := c.Informers.Policy().V1().PodDisruptionBudgets()
	s.synced = append(s.synced, budgets.Informer().HasSyncedChecker())
	s.budgets = func() ([]*policyv1.PodDisruptionBudget, error) { return budgets.Lister().List(labels.Everything()) }
	return nil
}

func (s *Scheduler) followNodes(informer cache.SharedIndexInformer) error {
	return s.follow(informer, cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { s.nodeChanged(obj.(*corev1.Node)) },
		UpdateFunc: func(old, obj any) {
			if matters(old.(*corev1.Node), obj.(*corev1.Node)) {
				s.nodeChanged(obj.(*corev1.Node))
			}
		},
		DeleteFunc: func(obj any) {
			if n, ok := last[*corev1.Node](obj); ok {
				s.state.removeNode(n.Name)
			}
		},
	})
}

// followStorage watches what the claims of pods depend on.
func (s *Scheduler) followStorage(factory informers.SharedInformerFactory) error {
	claims, volumes, classes := factory.Core().V1().PersistentVolumeClaims(), factory.Core().V1().PersistentVolumes(), factory.Storage().V1().StorageClasses()
	s.state.storage = plugin.Storage{
		Claim: func(namespace, name string) (*corev1.PersistentVolumeClaim, error) {
			return claims.Lister().PersistentVolumeClaims(namespace).Get(name)
		},
		Volume: volumes.Lister().Get,
		Volumes: func() ([]*corev1.PersistentVolume, error) {
			listed, err := volumes.Lister().List(labels.Everything())
			return s.given.known(listed), err
		},
		Class: classes.Lister().Get,
	}
	for _, informer := range []cache.SharedIndexInformer{claims.Informer(), volumes.Informer(), classes.Informer()} {
		if err := s.stirOn(informer); err != nil {
			return err
		}
	}
	return nil
}

// stirOn gives pods that could not be placed another try when something is made
// or changed that may be what they lacked.
func (s *Scheduler) stirOn(informer cache.SharedIndexInformer) error {
	return s.follow(informer, cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { s.queue.stir() },
		UpdateFunc: func(any, any) { s.queue.stir() },
	})
}

func (s *Scheduler) nodeChanged(n *corev1.Node) {
	s.state.setNode(n)
	s.queue.stir()
}

func (s *Scheduler) followPods(informer cache.SharedIndexInformer) error {
	return s.follow(informer, cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { s.podChanged(nil, obj.(*corev1.Pod)) },
		UpdateFunc: func(old, obj any) { s.podChanged(old.(*corev1.Pod), obj.(*corev1.Pod)) },
		DeleteFunc: func(obj any) {
			if pod, ok := last[*corev1.Pod](obj); ok {
				s.podGone(pod)
			}
		},
	})
}

// podChanged sorts a pod into what it now is: over, placed, or to be placed.
func (s *Scheduler) podChanged(old, pod *corev1.Pod) {
	nominated := pod.Status.NominatedNodeName
	if pod.Spec.NodeName == "" && pod.Spec.SchedulerName == Name && (old == nil && nominated != "" || old != nil && nominated != old.Status.NominatedNodeName) {
		s.state.nominate(plugin.NewPod(pod), nominated) // by the scheduler before this one, or by somebody else
	}
	switch {
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		s.podGone(pod)
	case pod.Spec.NodeName != "":
		s.queue.remove(pod.UID)
		s.state.place(plugin.NewPod(pod), pod.Spec.NodeName)
		if old != nil && placementChanged(old, pod) {
			s.queue.stir()
		}
	case pod.Spec.SchedulerName != Name || pod.DeletionTimestamp != nil || len(pod.Spec.SchedulingGates) > 0:
		s.queue.remove(pod.UID)
	case s.state.counts(pod.UID):
		s.queue.update(plugin.NewPod(pod)) // it is being bound, or bound already and this is old news
	case old != nil && !specChanged(old, pod) && equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses):
		s.queue.update(plugin.NewPod(pod))
	default:
		s.queue.add(plugin.NewPod(pod), time.Now())
	}
}

func (s *Scheduler) podGone(pod *corev1.Pod) {
	s.queue.remove(pod.UID)
	s.state.remove(pod.UID)
	if pod.Spec.NodeName != "" {
		s.queue.stir()
	}
}

// last is the object of a delete event, which may be one the informer missed.
func last[T any](obj any) (T, bool) {
	if missed, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = missed.Obj
	}
	t, ok := obj.(T)
	return t, ok
}

// Run places pods until ctx ends, and returns when nothing of it runs any more.
func (s *Scheduler) Run(ctx context.Context) error {
	defer s.events.Shutdown() // it runs since New
	if !cache.WaitFor(ctx, "", s.synced...) {
		return nil
	}
	if err := s.events.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("record events: %w", err)
	}
	defer s.bindings.Wait()
	for {
		pod, moved, ok := s.queue.next(ctx)
		if !ok {
			return nil
		}
		s.attempt(ctx, pod, moved, func() { s.place(ctx, pod, moved) })
	}
}
