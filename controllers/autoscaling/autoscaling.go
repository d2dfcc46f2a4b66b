// Package autoscaling holds the controller of HorizontalPodAutoscalers. Package decide below it says what is to be
// done; here is what it is decided from (target.go, metrics.go), and the doing.
package autoscaling

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	autoscalinglisters "k8s.io/client-go/listers/autoscaling/v2"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/autoscaling/decide"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Deps is what the controller is made of.
type Deps struct {
	Client kubernetes.Interface
	// API reaches what Client has no types for: scales of any kind, and metrics.
	API       *rest.Config
	Informers informers.SharedInformerFactory
	Recorder  func(component string) record.EventRecorder
	Workers   int
	// Period is how often an autoscaler is looked at.
	Period time.Duration
}

// settings are upstream's defaults.
var settings = decide.Settings{
	Tolerance: 0.1, DownscaleStabilization: 5 * time.Minute, CPUInitialization: 5 * time.Minute, InitialReadiness: 30 * time.Second,
}

// Horizontal scales what HorizontalPodAutoscalers name, by their metrics. It looks at a new one at once, and then every
// Period: metrics do not tell when they change. Without autoscalers it does nothing.
func Horizontal(d Deps) (reconcile.Controller, error) {
	targets, err := newTargets(d)
	if err != nil {
		return reconcile.Controller{}, err
	}
	metrics, err := newMetrics(d, targets)
	if err != nil {
		return reconcile.Controller{}, err
	}
	informer := d.Informers.Autoscaling().V2().HorizontalPodAutoscalers()
	h := &horizontal{
		client: d.Client, autoscalers: informer.Lister(), pods: d.Informers.Core().V1().Pods().Lister(),
		targets: targets, metrics: metrics, events: d.Recorder("horizontal-pod-autoscaler"), period: d.Period,
		known: map[reconcile.Key]*remembered{},
	}
	return reconcile.Controller{
		Name: "horizontalpodautoscaler", Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Self(informer.Informer()),
			reconcile.On(d.Informers.Core().V1().Pods().Informer(), func(_, _ *corev1.Pod) []reconcile.Key { return nil }),
		},
		Sync: h.sync,
	}, nil
}

type horizontal struct {
	client      kubernetes.Interface
	autoscalers autoscalinglisters.HorizontalPodAutoscalerLister
	pods        corelisters.PodLister
	targets     *targets
	metrics     *metrics
	events      record.EventRecorder
	period      time.Duration

	mu    sync.Mutex
	known map[reconcile.Key]*remembered
}

// remembered is what is known of an autoscaler besides what the API says. Only the one sync of its key that can run
// changes it; the selector is read by others too, under the lock.
type remembered struct {
	uid      types.UID
	next     time.Time // when it is looked at again
	history  decide.History
	selector labels.Selector // of its target, nil until that is known
}

func (h *horizontal) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	a, err := h.autoscalers.HorizontalPodAutoscalers(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		h.forget(key)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	m := h.recall(key, a.UID)
	if wait := time.Until(m.next); wait > 0 {
		return wait, nil // it has changed, by this controller's own writes among others
	}
	m.next = time.Now().Add(h.period)
	h.look(ctx, key, a, m)
	return h.period, nil
}

// recall is what is remembered of an autoscaler; one with a name that was used before is another one.
func (h *horizontal) recall(key reconcile.Key, uid types.UID) *remembered {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.known[key]; m != nil && m.uid == uid {
		return m
	}
	m := &remembered{uid: uid}
	h.known[key] = m
	return m
}

func (h *horizontal) forget(key reconcile.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.known, key)
}

// look decides about an autoscaler, acts, and reports. What goes wrong is told there, and tried again next time.
func (h *horizontal) look(ctx context.Context, key reconcile.Key, a *autoscalingv2.HorizontalPodAutoscaler, m *remembered) {
	target, scale, err := h.targets.scale(ctx, a)
	var d decide.Decision
	if err != nil {
		d = decide.Unreachable(a, m.history, err, time.Now())
	} else {
		d = settings.Decide(h.observe(ctx, key, a, scale), m.history)
	}
	if ctx.Err() != nil {
		return // what was not found is not known to be missing
	}
	if d.Rescale {
		d.Done(h.targets.resize(ctx, target, scale, d.Replicas))
	}
	m.history = d.History
	for _, e := range d.Events {
		h.events.Event(a, e.Type, e.Reason, e.Message)
	}
	h.report(ctx, a, d.Status)
}

// observe finds all that is decided from.
func (h *horizontal) observe(ctx context.Context, key reconcile.Key, a *autoscalingv2.HorizontalPodAutoscaler, scale *autoscalingv1.Scale) decide.Observation {
	o := decide.Observation{Autoscaler: a, Scale: scale, Now: time.Now()}
	if !decide.NeedsMetrics(a, scale.Spec.Replicas) {
		return o
	}
	selector, err := labels.Parse(scale.Status.Selector)
	if err != nil || scale.Status.Selector == "" {
		return o // nothing is decided by metrics then
	}
	o.Pods, _ = h.pods.Pods(a.Namespace).List(selector) // from memory, without error
	slices.SortFunc(o.Pods, func(p, q *corev1.Pod) int { return cmp.Compare(p.Name, q.Name) })
	if o.Rivals = h.rivals(key, selector, o.Pods); len(o.Rivals) > 1 {
		return o
	}
	o.Metrics = make([]decide.Metric, len(a.Spec.Metrics))
	for i, spec := range a.Spec.Metrics {
		o.Metrics[i] = h.metrics.read(ctx, a.Namespace, selector, spec)
	}
	o.Now = time.Now()
	return o
}

// rivals are the autoscalers that select one of pods. The one of key does so by selector.
func (h *horizontal) rivals(key reconcile.Key, selector labels.Selector, pods []*corev1.Pod) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.known[key]; m != nil {
		m.selector = selector
	}
	var rivals []string
	for other, m := range h.known {
		selects := func(p *corev1.Pod) bool { return m.selector != nil && m.selector.Matches(labels.Set(p.Labels)) }
		if other.Namespace == key.Namespace && slices.ContainsFunc(pods, selects) {
			rivals = append(rivals, other.String())
		}
	}
	slices.Sort(rivals)
	return rivals
}

// report writes a status that is another than before.
func (h *horizontal) report(ctx context.Context, a *autoscalingv2.HorizontalPodAutoscaler, status autoscalingv2.HorizontalPodAutoscalerStatus) {
	if equality.Semantic.DeepEqual(a.Status, status) {
		return
	}
	next := a.DeepCopy()
	next.Status = status
	if _, err := h.client.AutoscalingV2().HorizontalPodAutoscalers(a.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil && ctx.Err() == nil {
		h.events.Event(a, corev1.EventTypeWarning, "FailedUpdateStatus", err.Error())
		slog.DebugContext(ctx, "status of an autoscaler", "autoscaler", a.Namespace+"/"+a.Name, "error", err)
	}
}
