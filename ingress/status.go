package ingress

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/ingress/route"
)

// status writes into Ingresses where they are served, and events about what of them is not. Every node does it for
// itself: it adds or takes away its own address, and takes away those of nodes that are gone.
type status struct {
	Config
	ingresses networkinglisters.IngressLister
	nodes     corelisters.NodeLister
	queue     workqueue.TypedRateLimitingInterface[route.Key]
	events    record.EventRecorder
	told      map[route.Key][]string // of the goroutine that calls tell

	mu       sync.Mutex
	open     bool
	problems []string
	served   map[route.Key]bool
}

func newStatus(c Config, ingresses networkinglisters.IngressLister, nodes corelisters.NodeLister) *status {
	return &status{
		Config: c, ingresses: ingresses, nodes: nodes, served: make(map[route.Key]bool), told: make(map[route.Key][]string),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[route.Key](10*time.Millisecond, time.Minute)),
	}
}

// set says whether this node serves, and why not.
func (s *status) set(open bool, problems []string) {
	s.mu.Lock()
	changed := s.open != open || !slices.Equal(s.problems, problems)
	s.open, s.problems = open, problems
	var all []route.Key
	if changed {
		all = slices.Collect(maps.Keys(s.served))
	}
	s.mu.Unlock()
	for _, p := range problems {
		if changed {
			s.Log.Warn("the ingress does not serve", "problem", p)
		}
	}
	for _, key := range all {
		s.event(key, problems)
		s.queue.Add(key)
	}
}

// look has the address of an Ingress looked at again, if it is served.
func (s *status) look(key route.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.served[key] {
		s.queue.Add(key)
	}
}

// nodesChanged has all addresses looked at again.
func (s *status) nodesChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.served {
		s.queue.Add(key)
	}
}

// tell says of an Ingress whether it is served, and what of it is not. It is not told again as long as it is the same.
func (s *status) tell(key route.Key, served bool, problems []string) {
	s.mu.Lock()
	was := s.served[key]
	if served {
		s.served[key] = true
	} else {
		delete(s.served, key)
	}
	if served && !was {
		problems = slices.Concat(problems, s.problems)
	}
	s.mu.Unlock()
	if served || was {
		s.queue.Add(key)
	}
	if !served {
		delete(s.told, key)
		return
	}
	var fresh []string
	for _, p := range problems {
		if !slices.Contains(s.told[key], p) {
			fresh = append(fresh, p)
		}
	}
	s.told[key] = problems
	s.event(key, fresh)
}

func (s *status) event(key route.Key, problems []string) {
	ing, err := s.ingresses.Ingresses(key.Namespace).Get(key.Name)
	if err != nil || s.events == nil {
		return
	}
	for _, p := range problems {
		s.events.Event(ing, corev1.EventTypeWarning, "NotServed", p)
	}
}

// record starts to write events until stop is called.
func (s *status) record() (stop func()) {
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&corev1client.EventSinkImpl{Interface: s.Client.CoreV1().Events("")})
	s.events = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "skiff-ingress", Host: s.NodeName})
	return broadcaster.Shutdown
}

// run writes addresses until ctx ends.
func (s *status) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, s.queue.ShutDown)
	defer stop()
	for {
		key, shutdown := s.queue.Get()
		if shutdown {
			return
		}
		if err := guard.Call("ingress status", func() error { return s.write(ctx, key) }); err != nil {
			s.queue.AddRateLimited(key)
		} else {
			s.queue.Forget(key)
		}
		s.queue.Done(key)
	}
}

func (s *status) write(ctx context.Context, key route.Key) error {
	ing, err := s.ingresses.Ingresses(key.Namespace).Get(key.Name)
	if err != nil {
		return nil // it is gone
	}
	s.mu.Lock()
	here := s.open && s.served[key]
	s.mu.Unlock()
	wanted := s.addresses(ing.Status.LoadBalancer.Ingress, here)
	if slices.EqualFunc(wanted, ing.Status.LoadBalancer.Ingress, func(a, b networkingv1.IngressLoadBalancerIngress) bool {
		return a.IP == b.IP && a.Hostname == b.Hostname
	}) {
		return nil
	}
	updated := ing.DeepCopy()
	updated.Status.LoadBalancer.Ingress = wanted
	_, err = s.Client.NetworkingV1().Ingresses(key.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{FieldManager: "skiff-ingress"})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err // a conflict is tried again with what the other wrote
}

// addresses are where an Ingress is served: what the status says, without nodes that are gone, and this node as it is.
func (s *status) addresses(has []networkingv1.IngressLoadBalancerIngress, here bool) (wanted []networkingv1.IngressLoadBalancerIngress) {
	live := s.liveNodes()
	self := make(map[string]bool)
	for _, a := range s.Config.addresses() {
		self[a.String()] = true
		if here {
			wanted = append(wanted, networkingv1.IngressLoadBalancerIngress{IP: a.String()})
		}
	}
	for _, i := range has {
		if i.IP != "" && !self[i.IP] && live[i.IP] {
			wanted = append(wanted, i)
		}
	}
	slices.SortFunc(wanted, func(a, b networkingv1.IngressLoadBalancerIngress) int {
		x, _ := netip.ParseAddr(a.IP)
		y, _ := netip.ParseAddr(b.IP)
		return x.Compare(y)
	})
	return wanted
}

// liveNodes are the addresses of nodes that are ready.
func (s *status) liveNodes() map[string]bool {
	live := make(map[string]bool)
	nodes, err := s.nodes.List(labels.Everything())
	if err != nil {
		return live // a cache gives no error
	}
	for _, n := range nodes {
		for _, a := range strings.Fields(nodeAddresses(n)) {
			live[a] = true
		}
	}
	return live
}

// nodeAddresses are the addresses of a node that is ready, separated by spaces; none of another one.
func nodeAddresses(n *corev1.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return ""
		}
	}
	var list []string
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			list = append(list, a.Address)
		}
	}
	return strings.Join(list, " ")
}

// sameAnnotations ignores what kubectl notes for itself.
func sameAnnotations(a, b map[string]string) bool {
	return maps.Equal(withoutLastApplied(a), withoutLastApplied(b))
}

func withoutLastApplied(m map[string]string) map[string]string {
	if _, ok := m[corev1.LastAppliedConfigAnnotation]; ok {
		m = maps.Clone(m)
		delete(m, corev1.LastAppliedConfigAnnotation)
	}
	return m
}
