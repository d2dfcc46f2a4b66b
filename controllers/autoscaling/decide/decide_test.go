package decide

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// The scenarios and what kube-controller-manager decided in them: see third_party/kubernetes/autoscaling, which plays
// them to it.

type scenario struct {
	Name  string                                    `json:"name"`
	Spec  autoscalingv2.HorizontalPodAutoscalerSpec `json:"spec"`
	Steps []step                                    `json:"steps"`
}

// step is what is found for so many decisions; what it does not say is as before.
type step struct {
	Times       int      `json:"times"`
	Replicas    *int32   `json:"replicas"`
	Status      *int32   `json:"status"`
	Selector    *string  `json:"selector"`
	Pods        []pod    `json:"pods"`
	Metrics     []metric `json:"metrics"`
	ScaleError  string   `json:"scaleError"`
	ResizeError string   `json:"resizeError"`
}

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

type metric struct {
	Pods   map[string]int64 `json:"pods"`
	Values []int64          `json:"values"`
	Error  string           `json:"error"`
	Age    string           `json:"age"`
	Window string           `json:"window"`
}

// decision is what was done and told after a step.
type decision struct {
	Replicas   []int32  `json:"replicas"` // after each decision
	Current    int32    `json:"current"`
	Desired    int32    `json:"desired"`
	Scaled     string   `json:"scaled"` // the time of the last change, after the start
	Conditions []string `json:"conditions"`
	Metrics    []string `json:"metrics"`
	Events     []string `json:"events"`
}

type recorded struct {
	Name  string     `json:"name"`
	Steps []decision `json:"steps"`
}

func read[T any](t *testing.T, file string) (all []T) {
	t.Helper()
	text, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, &all); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return all
}

const period = 15 * time.Second

var upstream = Settings{Tolerance: 0.1, DownscaleStabilization: 5 * time.Minute, CPUInitialization: 5 * time.Minute, InitialReadiness: 30 * time.Second}

// TestDecisions compares with what kube-controller-manager decided from the same.
func TestDecisions(t *testing.T) {
	scenarios, decisions := read[scenario](t, "scenarios.yaml"), read[recorded](t, "decisions.yaml")
	if len(scenarios) != len(decisions) || len(scenarios) == 0 {
		t.Fatalf("got %d scenarios and decisions of %d: record them again", len(scenarios), len(decisions))
	}
	for i, s := range scenarios {
		t.Run(s.Name, func(t *testing.T) {
			if decisions[i].Name != s.Name {
				t.Fatalf("the recorded decisions are those of %s: record them again", decisions[i].Name)
			}
			if diff := cmp.Diff(decisions[i].Steps, play(s)); diff != "" {
				t.Errorf("kube-controller-manager (-) decides otherwise (+):\n%s", diff)
			}
		})
	}
}

// world is what an autoscaler finds, and is.
type world struct {
	o       Observation
	step    step
	history History
	begin   time.Time
}

func play(s scenario) (all []decision) {
	w := &world{begin: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)}
	w.o.Autoscaler = &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a"}, Spec: s.Spec}
	w.o.Scale = &autoscalingv1.Scale{}
	w.o.Scale.Status.Selector = "app=a"
	w.o.Now = w.begin
	for _, step := range s.Steps {
		all = append(all, w.play(step))
	}
	return all
}

func (w *world) play(s step) (d decision) {
	w.enter(s, w.o.Now.Add(period))
	for range max(s.Times, 1) {
		w.o.Now = w.o.Now.Add(period)
		made := w.decide(s)
		w.history, w.o.Autoscaler.Status = made.History, made.Status
		for _, e := range made.Events {
			d.Events = append(d.Events, e.Type+" "+e.Reason+": "+e.Message)
		}
		d.Replicas = append(d.Replicas, w.o.Scale.Spec.Replicas)
	}
	d.tell(w.o.Autoscaler.Status, w.begin)
	return d
}

func (w *world) decide(s step) Decision {
	if s.ScaleError != "" {
		return Unreachable(w.o.Autoscaler, w.history, errors.New(s.ScaleError), w.o.Now)
	}
	made := upstream.Decide(w.o, w.history)
	switch {
	case !made.Rescale:
	case s.ResizeError != "":
		made.Done(errors.New(s.ResizeError))
	default:
		w.o.Scale.Spec.Replicas, w.o.Scale.Status.Replicas = made.Replicas, made.Replicas
		made.Done(nil)
	}
	return made
}

func (d *decision) tell(s autoscalingv2.HorizontalPodAutoscalerStatus, begin time.Time) {
	d.Current, d.Desired = s.CurrentReplicas, s.DesiredReplicas
	if s.LastScaleTime != nil {
		d.Scaled = s.LastScaleTime.Sub(begin).String()
	}
	for _, c := range s.Conditions {
		d.Conditions = append(d.Conditions, fmt.Sprintf("%s=%s since %s, %s: %s", c.Type, c.Status, c.LastTransitionTime.Sub(begin), c.Reason, c.Message))
	}
	for _, m := range s.CurrentMetrics {
		text, err := json.Marshal(m)
		if err != nil {
			panic(err)
		}
		d.Metrics = append(d.Metrics, string(text))
	}
}

// enter makes the world as a step says. at is the time of the next decision.
func (w *world) enter(s step, at time.Time) {
	if s.Replicas != nil {
		w.o.Scale.Spec.Replicas, w.o.Scale.Status.Replicas = *s.Replicas, *s.Replicas
	}
	if s.Status != nil {
		w.o.Scale.Status.Replicas = *s.Status
	}
	if s.Selector != nil {
		w.o.Scale.Status.Selector = *s.Selector
	}
	if s.Pods != nil {
		w.o.Pods = nil
		for _, p := range s.Pods {
			w.o.Pods = append(w.o.Pods, p.object(at))
		}
	}
	if s.Metrics != nil {
		w.o.Metrics = nil
		for _, m := range s.Metrics {
			w.o.Metrics = append(w.o.Metrics, m.found(at))
		}
	}
}

func (m metric) found(at time.Time) Metric {
	if m.Error != "" {
		return Metric{Err: errors.New(m.Error)}
	}
	found := Metric{Values: m.Values, Pods: map[string]Sample{}}
	window, err := time.ParseDuration(or(m.Window, "15s"))
	if err != nil {
		panic(err)
	}
	for name, value := range m.Pods {
		found.Pods[name] = Sample{Value: value, At: ago(at, or(m.Age, "0s")), Window: window}
	}
	return found
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

// FuzzDecide holds what is true of every decision, whatever is found.
func FuzzDecide(f *testing.F) {
	f.Add(int32(1), int32(1), int32(10), int32(50), int64(150), int64(100), false)
	f.Add(int32(3), int32(2), int32(1<<31-1), int32(1), int64(1<<62), int64(-1), true)
	f.Fuzz(func(t *testing.T, replicas, lowest, highest, target int32, one, two int64, behaves bool) {
		if replicas < 0 || lowest < 1 || highest < lowest || target < 1 {
			t.Skip()
		}
		a := &autoscalingv2.HorizontalPodAutoscaler{}
		a.Spec = autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: &lowest, MaxReplicas: highest, Metrics: []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{AverageUtilization: &target}},
		}}}
		if behaves {
			a.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{
				Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: highest, PeriodSeconds: 15}}}}
		}
		o := Observation{Autoscaler: a, Scale: &autoscalingv1.Scale{}, Now: time.Unix(1_700_000_000, 0)}
		o.Scale.Spec.Replicas, o.Scale.Status.Selector = replicas, "app=a"
		o.Pods = []*corev1.Pod{pod{Name: "a", Request: map[string]string{"c": "100m"}}.object(o.Now), pod{Name: "b", Request: map[string]string{"c": "1"}}.object(o.Now)}
		o.Metrics = []Metric{{Pods: map[string]Sample{"a": {Value: one}, "b": {Value: two}}}}
		d := upstream.Decide(o, History{})
		if d.Rescale && (d.Replicas < lowest || d.Replicas > highest || d.Replicas == replicas) {
			t.Errorf("%d replicas of %d to %d are scaled to %d", replicas, lowest, highest, d.Replicas)
		}
	})
}
