package decide

import (
	"math"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var upstream = Settings{Tolerance: 0.1, DownscaleStabilization: 5 * time.Minute, CPUInitialization: 5 * time.Minute, InitialReadiness: 30 * time.Second}

// pod is written shortly.
type pod struct {
	Name    string            `json:"name"`
	Phase   corev1.PodPhase   `json:"phase"`
	Ready   string            `json:"ready"`   // True, False, or none
	Started string            `json:"started"` // how long ago
	Since   string            `json:"since"`   // how long ago readiness changed
	Deleted bool              `json:"deleted"`
	Request map[string]string `json:"request"` // cpu by container
	Sidecar map[string]string `json:"sidecar"`
	Whole   string            `json:"whole"` // cpu of the pod
}

func ago(at time.Time, text string) time.Time {
	d, err := time.ParseDuration(text)
	if err != nil {
		panic(err)
	}
	return at.Add(-d)
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

func (p pod) object(at time.Time) *corev1.Pod {
	o := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: p.Name}}
	if p.Deleted {
		o.DeletionTimestamp = &metav1.Time{Time: at}
	}
	o.Status.Phase = corev1.PodPhase(or(string(p.Phase), string(corev1.PodRunning)))
	if started := or(p.Started, "1h"); started != "none" {
		o.Status.StartTime = &metav1.Time{Time: ago(at, started)}
	}
	if ready := or(p.Ready, "True"); ready != "none" {
		o.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodReady, Status: corev1.ConditionStatus(ready), LastTransitionTime: metav1.Time{Time: ago(at, or(p.Since, "59m"))},
		}}
	}
	for name, cpu := range p.Request {
		o.Spec.Containers = append(o.Spec.Containers, container(name, cpu))
	}
	for name, cpu := range p.Sidecar {
		c := container(name, cpu)
		always := corev1.ContainerRestartPolicyAlways
		c.RestartPolicy = &always
		o.Spec.InitContainers = append(o.Spec.InitContainers, c)
	}
	if p.Whole != "" {
		o.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(p.Whole)}}
	}
	return o
}

func container(name, cpu string) corev1.Container {
	c := corev1.Container{Name: name}
	if cpu != "" {
		c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
	return c
}

// TestUpByCPU is the example of the documentation: three times the target makes three times as many.
func TestUpByCPU(t *testing.T) {
	o := observation(1, 1, 10, 50)
	o.Pods = []*corev1.Pod{pod{Name: "a", Request: map[string]string{"c": "100m"}}.object(o.Now)}
	o.Metrics = []Metric{{Pods: map[string]Sample{"a": {Value: 150, At: o.Now, Window: 15 * time.Second}}}}
	d := upstream.Decide(o, History{})
	if !d.Rescale || d.Replicas != 3 {
		t.Fatalf("got %d, %v, want 3 replicas", d.Replicas, d.Rescale)
	}
	d.Done(nil)
	const want = "New size: 3; reason: cpu resource utilization (percentage of request) above target"
	if len(d.Events) != 1 || d.Events[0].Message != want || d.Status.DesiredReplicas != 3 || d.Status.LastScaleTime == nil {
		t.Errorf("got %v and %+v, want %s", d.Events, d.Status, want)
	}
}

// observation is of a target of so many replicas, by CPU.
func observation(replicas, lowest, highest, target int32) Observation {
	a := &autoscalingv2.HorizontalPodAutoscaler{}
	a.Spec = autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: &lowest, MaxReplicas: highest, Metrics: []autoscalingv2.MetricSpec{{
		Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU,
			Target: autoscalingv2.MetricTarget{AverageUtilization: &target}},
	}}}
	o := Observation{Autoscaler: a, Scale: &autoscalingv1.Scale{}, Now: time.Unix(1_700_000_000, 0)}
	o.Scale.Spec.Replicas, o.Scale.Status.Selector = replicas, "app=a"
	return o
}

// FuzzDecide holds what is true of every decision, whatever is found.
func FuzzDecide(f *testing.F) {
	f.Add(int32(1), int32(1), int32(10), int32(50), int64(150), int64(100), false)
	f.Add(int32(3), int32(2), int32(1<<31-1), int32(1), int64(1<<62), int64(-1), true)
	f.Fuzz(func(t *testing.T, replicas, lowest, highest, target int32, one, two int64, behaves bool) {
		if replicas < 0 || lowest < 1 || highest < lowest || target < 1 {
			t.Skip()
		}
		o := observation(replicas, lowest, highest, target)
		if behaves {
			o.Autoscaler.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{
				Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: highest, PeriodSeconds: 15}}}}
		}
		o.Pods = []*corev1.Pod{pod{Name: "a", Request: map[string]string{"c": "100m"}}.object(o.Now), pod{Name: "b", Request: map[string]string{"c": "1"}}.object(o.Now)}
		o.Metrics = []Metric{{Pods: map[string]Sample{"a": {Value: one}, "b": {Value: two}}}}
		d := upstream.Decide(o, History{})
		if d.Rescale && (d.Replicas < lowest || d.Replicas > highest || d.Replicas == replicas) {
			t.Errorf("%d replicas of %d to %d are scaled to %d", replicas, lowest, highest, d.Replicas)
		}
	})
}

// TestSumsEnd holds sums and shares within the numbers there are, in both directions.
func TestSumsEnd(t *testing.T) {
	const most, least = math.MaxInt64, math.MinInt64
	for _, sum := range [][3]int64{{most, 1, most}, {1, most, most}, {least, -1, least}, {-1, least, least}, {most, least, -1}, {2, -3, -1}} {
		if got := add(sum[0], sum[1]); got != sum[2] {
			t.Errorf("%d and %d: got %d, want %d", sum[0], sum[1], got, sum[2])
		}
	}
	for _, share := range [][3]int64{{most, 1, math.MaxInt32}, {least, 1, math.MinInt32}, {most, most, 100}, {1, 3, 33}, {-1, 3, -33}} {
		if got := percentOf(share[0], share[1]); int64(got) != share[2] {
			t.Errorf("%d of %d: got %d%%, want %d%%", share[0], share[1], got, share[2])
		}
	}
}
