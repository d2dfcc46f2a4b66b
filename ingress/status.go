package ingress

import (
	"context"
	"encoding/json"
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
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/skiff-k8s/skiff/guard"
	"github.com/skiff-k8s/skiff/ingress/route"
)

// AddressAnnotation is that of a Node by which it says at which addresses it serves Ingresses, between commas. It is empty as long as it
// serves none.
const AddressAnnotation = "skiff-k8s.github.io/ingress-address"

// together is how long changes of nodes are gathered: each means a write for every Ingress.
const together = 100 * time.Millisecond

// status writes into Ingresses where they are served, and events about what of them is not.
//
// Each node says for itself in an annotation whether it serves; addresses of nodes that are not ready do not count. One
// of the nodes, the first that is ready, writes that into all Ingresses. Should two for a moment hold themselves for the
// first, they write the same.
type status struct {
	Config
	ingresses networkinglisters.IngressLister
	nodes     corelisters.NodeLister
	queue     workqueue.TypedRateLimitingInterface[route.Key]
	events    record.EventRecorder
	told      map[route.Key][]string // of the goroutine that calls tell

	mu       sync.Mutex
	known    bool // set was called
	open     bool
	problems []string
	served   map[route.Key]bool
	view     *view // nil: nodes have changed since
	timer    *time.Timer
}

// announcement is the key under which the node's own annotation is in the queue.
var announcement route.Key

func newStatus(c Config, ingresses networkinglisters.IngressLister, nodes corelisters.NodeLister) *status {
	return &status{
		Config: c, ingresses: ingresses, nodes: nodes, served: make(map[route.Key]bool), told: make(map[route.Key][]string),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[route.Key](10*time.Millisecond, time.Minute)),
	}
}

// set says whether this node serves, and why not.
func (s *status) set(open bool, problems []string) {
	s.mu.Lock()
	changed := !slices.Equal(s.problems, problems)
	if !s.known || s.open != open {
		s.queue.Add(announcement)
	}
	s.known, s.open, s.problems = true, open, problems
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

// nodeChanged has the annotation, if the node is this one, and soon all addresses looked at again.
func (s *status) nodeChanged(name string) {
	if name == s.NodeName {
		s.queue.Add(announcement)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view = nil
	if s.timer == nil {
		s.timer = guard.After(together, "ingress status", s.lookAtAll)
	}
}

func (s *status) lookAtAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = nil
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

// write does what a key in the queue is about.
func (s *status) write(ctx context.Context, key route.Key) error {
	if key == announcement {
		return s.announce(ctx)
	}
	view, served, err := s.now(key)
	if err != nil {
		return err
	}
	ing, err := s.ingresses.Ingresses(key.Namespace).Get(key.Name)
	if err != nil || view.writer != s.NodeName {
		return nil // it is gone, or another node's work
	}
	has := ing.Status.LoadBalancer.Ingress
	wanted := view.serving
	if !served {
		wanted = slices.DeleteFunc(slices.Clone(has), func(i networkingv1.IngressLoadBalancerIngress) bool { return view.ours[i.IP] })
	}
	if slices.EqualFunc(wanted, has, func(a, b networkingv1.IngressLoadBalancerIngress) bool {
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

// now is what nodes say, and whether an Ingress is served.
func (s *status) now(key route.Key) (*view, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.view == nil {
		nodes, err := s.nodes.List(labels.Everything())
		if err != nil {
			return nil, false, err
		}
		s.view = newView(nodes)
	}
	return s.view, s.served[key], nil
}

// announce says in the Node's annotation what set has been told. A Node that is not there yet is looked at again when it
// has come.
func (s *status) announce(ctx context.Context) error {
	s.mu.Lock()
	known, list := s.known, ""
	if s.open {
		list = joined(s.Config.addresses())
	}
	s.mu.Unlock()
	node, err := s.nodes.Get(s.NodeName)
	if err != nil || !known {
		return nil
	}
	if said, ok := node.Annotations[AddressAnnotation]; ok && said == list {
		return nil
	}
	return annotate(ctx, s.NodeClient, s.NodeName, &list)
}

// Withdraw says that a node serves no Ingresses any more, nor is to write their status.
func Withdraw(ctx context.Context, client kubernetes.Interface, node string) error {
	return annotate(ctx, client, node, nil)
}

// annotate sets the annotation, or removes it. That the Node is not there is no error.
func annotate(ctx context.Context, client kubernetes.Interface, node string, value *string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]*string{AddressAnnotation: value}}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "skiff-ingress"})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// view is what nodes say.
type view struct {
	writer  string                                    // the node that writes; empty: none is ready
	serving []networkingv1.IngressLoadBalancerIngress // in ascending order
	ours    map[string]bool                           // addresses of all nodes, whatever they say
}

func newView(nodes []*corev1.Node) *view {
	v := &view{ours: make(map[string]bool)}
	var serving []netip.Addr
	for _, n := range nodes {
		for _, a := range n.Status.Addresses {
			v.ours[a.Address] = true
		}
		said, takesPart := n.Annotations[AddressAnnotation]
		if !takesPart {
			continue
		}
		if ready(n) && (v.writer == "" || n.Name < v.writer) {
			v.writer = n.Name
		}
		if ready(n) {
			serving = append(serving, split(said)...)
		}
	}
	slices.SortFunc(serving, netip.Addr.Compare)
	for _, a := range slices.Compact(serving) {
		v.serving = append(v.serving, networkingv1.IngressLoadBalancerIngress{IP: a.String()})
	}
	return v
}

// joined and split are the addresses of an annotation, one of each IP family. What is no address says nothing.
func joined(addresses []netip.Addr) string {
	list := make([]string, 0, len(addresses))
	for _, a := range addresses {
		list = append(list, a.String())
	}
	return strings.Join(list, ",")
}

func split(said string) (addresses []netip.Addr) {
	for text := range strings.SplitSeq(said, ",") {
		if address, err := netip.ParseAddr(text); err == nil {
			addresses = append(addresses, address)
		}
	}
	return addresses
}

// ready reports whether a node is not known to be out of order.
func ready(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return true
}

// sameNode reports whether two states of a Node are the same to the status.
func sameNode(a, b *corev1.Node) bool {
	x, inA := a.Annotations[AddressAnnotation]
	y, inB := b.Annotations[AddressAnnotation]
	return ready(a) == ready(b) && inA == inB && x == y && slices.Equal(a.Status.Addresses, b.Status.Addresses)
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
