// Package decide says how many replicas a HorizontalPodAutoscaler wants, and what is told of it. It is pure: all that a
// decision rests on is an Observation and the History of earlier ones.
//
// metric.go makes a number of replicas of one metric, pods.go knows which pods count, limit.go holds the number within
// what the spec allows at this time.
package decide

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
)

// Settings are the same for all autoscalers.
type Settings struct {
	// Tolerance is by how much a metric may miss its target, as a share of it, before anything is done. The behavior of
	// an autoscaler can say otherwise.
	Tolerance float64
	// DownscaleStabilization is how long a higher recommendation counts, where the behavior says nothing else.
	DownscaleStabilization time.Duration
	// CPUInitialization is how long after its start a pod's CPU counts only while the pod is ready, and was measured as such.
	CPUInitialization time.Duration
	// InitialReadiness is how long after its start a pod that is not ready is taken for one that never was.
	InitialReadiness time.Duration
}

// Observation is what one decision is made from. Nothing of it is changed.
type Observation struct {
	Autoscaler *autoscalingv2.HorizontalPodAutoscaler
	Scale      *autoscalingv1.Scale
	// Pods are those the selector of the scale selects.
	Pods []*corev1.Pod
	// Rivals are the autoscalers that select one of Pods, this one included, as namespace/name.
	Rivals []string
	// Metrics are what was found for the metrics of the spec, in their order.
	Metrics []Metric
	Now     time.Time
}

// Metric is what was found for one metric: samples by the name of the pod, values, or an error.
type Metric struct {
	Pods   map[string]Sample
	Values []int64 // thousandths
	Err    error
}

// Sample is what was measured of one pod.
type Sample struct {
	Value  int64 // thousandths
	At     time.Time
	Window time.Duration
}

// Event is to be recorded for the autoscaler.
type Event struct{ Type, Reason, Message string }

// Decision is what is to be done and told. When Rescale says so, the scale is to be set to Replicas, and Done be called
// with what came of it.
type Decision struct {
	Replicas int32
	Rescale  bool
	Status   autoscalingv2.HorizontalPodAutoscalerStatus
	Events   []Event
	History  History

	reason  string // of the rescale
	before  int32
	spec    *autoscalingv2.HorizontalPodAutoscalerSpec
	now     time.Time
	metrics []autoscalingv2.MetricStatus
}

// The reasons and words of Kubernetes, by which people and programs know what happened.
const (
	gotScale     = "the HPA controller was able to get the target's current scale"
	noScale      = "the HPA controller was unable to get the target's current scale: %v"
	unableToMany = "the HPA was unable to compute the replica count: %v"
)

// Unreachable is what is told of an autoscaler whose target cannot be asked for its scale.
func Unreachable(a *autoscalingv2.HorizontalPodAutoscaler, h History, err error, now time.Time) Decision {
	d := begin(a, h, now)
	d.warn("FailedGetScale", err.Error())
	d.condition(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale", fmt.Sprintf(noScale, err))
	return d
}

// NeedsMetrics tells whether the metrics of a are looked at when its target has so many replicas.
func NeedsMetrics(a *autoscalingv2.HorizontalPodAutoscaler, replicas int32) bool {
	return replicas != 0 && replicas <= a.Spec.MaxReplicas && replicas >= minReplicas(a)
}

func minReplicas(a *autoscalingv2.HorizontalPodAutoscaler) int32 {
	return ptr.Deref(a.Spec.MinReplicas, 1)
}

// Decide decides.
func (s Settings) Decide(o Observation, h History) Decision {
	d := begin(o.Autoscaler, h, o.Now)
	d.condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededGetScale", gotScale)
	d.before = o.Scale.Spec.Replicas
	if len(d.History.Recommendations) == 0 {
		d.History.Recommendations = []Recommendation{{d.before, o.Now}}
	}
	switch lowest := minReplicas(o.Autoscaler); {
	case d.before == 0:
		d.condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, "ScalingDisabled",
			"scaling is disabled since the replica count of the target is zero")
		d.dropCondition(autoscalingv2.ScaledToZero)
		d.settle(0)
	case d.before > o.Autoscaler.Spec.MaxReplicas:
		d.rescale(o.Autoscaler.Spec.MaxReplicas, "Current number of replicas above Spec.MaxReplicas")
	case d.before < lowest:
		d.rescale(lowest, "Current number of replicas below Spec.MinReplicas")
	default:
		s.byMetrics(&d, o)
	}
	return d
}

// begin is a decision that changes nothing yet.
func begin(a *autoscalingv2.HorizontalPodAutoscaler, h History, now time.Time) Decision {
	return Decision{Status: *a.Status.DeepCopy(), History: h.clone(), spec: a.Spec.DeepCopy(), now: now}
}

// byMetrics decides by what the metrics say.
func (s Settings) byMetrics(d *Decision, o Observation) {
	replicas, metric, err := s.propose(d, o)
	if err != nil {
		d.warn("FailedComputeMetricsReplicas", err.Error())
		d.report(d.Status.DesiredReplicas)
		return
	}
	reason := ""
	switch {
	case replicas > d.before:
		reason = metric + " above target"
	case replicas < d.before:
		reason = "All metrics below target"
	}
	wanted := s.limit(d, replicas, minReplicas(o.Autoscaler))
	if wanted == d.before {
		d.settle(d.before)
		return
	}
	d.rescale(wanted, reason)
}

// propose is the largest number of replicas that a metric asks for, and which metric that is. Metrics that are not
// known leave the others to decide, but not to scale down.
func (s Settings) propose(d *Decision, o Observation) (replicas int32, metric string, err error) {
	if err := d.checkSelector(o); err != nil {
		return 0, "", err
	}
	d.metrics = make([]autoscalingv2.MetricStatus, len(d.spec.Metrics))
	var failures []failure
	for i, spec := range d.spec.Metrics {
		c := calculation{settings: s, tolerance: s.tolerance(d.spec.Behavior), observation: o, metric: o.Metrics[i]}
		p, failed := c.propose(spec)
		if failed != nil {
			d.warn(failed.reason, failed.cause.Error())
			failures = append(failures, *failed)
			continue
		}
		d.metrics[i] = p.status
		if replicas == 0 || p.replicas > replicas {
			replicas, metric = p.replicas, p.name
		}
	}
	if n, all := len(failures), len(d.spec.Metrics); n >= all || n > 0 && replicas < d.before {
		d.condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, failures[0].reason, fmt.Sprintf(unableToMany, failures[0].cause))
		return 0, "", fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %w", n, all, failures[0].err)
	}
	d.condition(autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound",
		"the HPA was able to successfully calculate a replica count from "+metric)
	return replicas, metric, nil
}

// checkSelector says what is wrong with the selector of the scale, which is to select pods of this autoscaler alone.
func (d *Decision) checkSelector(o Observation) error {
	text := o.Scale.Status.Selector
	if text == "" {
		d.warn("SelectorRequired", "selector is required")
		d.condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, "InvalidSelector", "the HPA target's scale is missing a selector")
		return errors.New("selector is required")
	}
	if _, err := labels.Parse(text); err != nil {
		return d.refuseSelector("InvalidSelector", fmt.Sprintf("couldn't convert selector into a corresponding internal selector object: %v", err))
	}
	if len(o.Rivals) > 1 {
		return d.refuseSelector("AmbiguousSelector",
			fmt.Sprintf("pods by selector %s are controlled by multiple HPAs: [%s]", text, strings.Join(o.Rivals, " ")))
	}
	return nil
}

func (d *Decision) refuseSelector(reason, message string) error {
	d.warn(reason, message)
	d.condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, reason, message)
	return errors.New(message)
}

// rescale asks for another number of replicas.
func (d *Decision) rescale(replicas int32, reason string) {
	d.Replicas, d.Rescale, d.reason = replicas, true, reason
}

// settle leaves the number of replicas as it is.
func (d *Decision) settle(replicas int32) {
	d.Replicas = replicas
	d.report(replicas)
}

// report makes the status of what was found and what is wanted.
func (d *Decision) report(desired int32) {
	d.Status = autoscalingv2.HorizontalPodAutoscalerStatus{
		CurrentReplicas: d.before, DesiredReplicas: desired,
		LastScaleTime: d.Status.LastScaleTime, CurrentMetrics: d.metrics, Conditions: d.Status.Conditions,
	}
}

// Done takes in what came of setting the scale to Replicas.
func (d *Decision) Done(err error) {
	if err != nil {
		d.warn("FailedRescale", fmt.Sprintf("New size: %d; reason: %s; error: %v", d.Replicas, d.reason, err))
		d.condition(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedUpdateScale",
			fmt.Sprintf("the HPA controller was unable to update the target scale: %v", err))
		d.report(d.Status.DesiredReplicas)
		return
	}
	d.condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededRescale",
		fmt.Sprintf("the HPA controller was able to update the target scale to %d", d.Replicas))
	d.Events = append(d.Events, Event{corev1.EventTypeNormal, "SuccessfulRescale", fmt.Sprintf("New size: %d; reason: %s", d.Replicas, d.reason)})
	d.History.scaled(d.spec.Behavior, d.before, d.Replicas, d.now)
	d.dropCondition(autoscalingv2.ScaledToZero)
	d.report(d.Replicas)
	d.Status.LastScaleTime = ptr.To(metav1.NewTime(d.now))
}

func (d *Decision) warn(reason, message string) {
	d.Events = append(d.Events, Event{corev1.EventTypeWarning, reason, message})
}

func (d *Decision) condition(of autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, reason, message string) {
	i := slices.IndexFunc(d.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool { return c.Type == of })
	if i < 0 {
		i = len(d.Status.Conditions)
		d.Status.Conditions = append(d.Status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{Type: of})
	}
	c := &d.Status.Conditions[i]
	if c.Status != status {
		c.LastTransitionTime = metav1.NewTime(d.now)
	}
	c.Status, c.Reason, c.Message = status, reason, message
}

func (d *Decision) dropCondition(of autoscalingv2.HorizontalPodAutoscalerConditionType) {
	d.Status.Conditions = slices.DeleteFunc(d.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool { return c.Type == of })
}
