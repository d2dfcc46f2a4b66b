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

// intended is a scenario in which Skiff decides otherwise on purpose.
type intended struct {
	because  string
	replicas []int32 // that Skiff decides on
	metric   string  // that it reports
}

// otherwise are these scenarios. Kubernetes lets numbers that are too large wrap, or makes of them what the processor
// does; Skiff takes the largest there is.
var otherwise = map[string]intended{
	"a value per pod of no pods": {
		"It is divided by zero there, and what is reported is the smallest number there is; here it is the value of all.",
		[]int32{4}, `{"type":"External","external":{"metric":{"name":"queue"},"current":{"averageValue":"450"}}}`,
	},
	"a value of an object per pod of no pods": {
		"The same.", []int32{4},
		`{"type":"Object","object":{"metric":{"name":"hits"},"current":{"averageValue":"450"},"describedObject":{"kind":"Service","name":"o","apiVersion":"v1"}}}`,
	},
	"an external value per pod below zero": {
		"It is taken for a sum that wrapped there, and scales up; the value of all pods together does not.",
		[]int32{2}, `{"type":"External","external":{"metric":{"name":"queue"},"current":{"averageValue":"-2500m"}}}`,
	},
	"CPU beyond counting": {
		"The sum wraps there, and the most that can be used scales down.",
		[]int32{4}, `{"type":"Resource","resource":{"name":"cpu","current":{"averageValue":"4611686018427387903m","averageUtilization":2147483647}}}`,
	},
	"pods' own metric beyond counting": {
		"The number of replicas wraps there, and the most that can be measured scales down.",
		[]int32{4}, `{"type":"Pods","pods":{"metric":{"name":"qps"},"current":{"averageValue":"3458764513820540928m"}}}`,
	},
	"a value of an object per pod beyond counting": {
		"The number of replicas wraps there, and what is reported.", []int32{4},
		`{"type":"Object","object":{"metric":{"name":"hits"},"current":{"averageValue":"9223372036854775807m"},"describedObject":{"kind":"Service","name":"o","apiVersion":"v1"}}}`,
	},
	"growth by any number of pods": {
		"The limit wraps there, and nothing grows.",
		[]int32{7}, `{"type":"External","external":{"metric":{"name":"queue"},"current":{"averageValue":"350"}}}`,
	},
	"growth by any percentage": {
		"The limit wraps there, and nothing grows.",
		[]int32{500}, `{"type":"External","external":{"metric":{"name":"queue"},"current":{"averageValue":"250"}}}`,
	},
	"more than a billion": {
		"Twice as many wraps there, and fewer than none are asked for.",
		[]int32{1_500_000_000}, `{"type":"External","external":{"metric":{"name":"queue"},"current":{"averageValue":"125"}}}`,
	},
}

// TestDecisions compares with what kube-controller-manager decided from the same.
func TestDecisions(t *testing.T) {
	scenarios, decisions := read[scenario](t, "scenarios.yaml"), read[recorded](t, "decisions.yaml")
	if len(scenarios) != len(decisions) || len(scenarios) == 0 {
		t.Fatalf("got %d scenarios and decisions of %d: record them again", len(scenarios), len(decisions))
	}
	different := 0
	for i, s := range scenarios {
		want, differs := otherwise[s.Name]
		if differs {
			different++
		}
		t.Run(s.Name, func(t *testing.T) {
			if decisions[i].Name != s.Name {
				t.Fatalf("the recorded decisions are those of %s: record them again", decisions[i].Name)
			}
			got := play(s)
			diff := cmp.Diff(decisions[i].Steps, got)
			switch {
			case differs:
				want.check(t, got, diff)
			case diff != "":
				t.Errorf("kube-controller-manager (-) decides otherwise (+):\n%s", diff)
			}
		})
	}
	if different != len(otherwise) {
		t.Errorf("%d scenarios are to differ, there are %d of them", len(otherwise), different)
	}
}

// check looks at the one step of a scenario that is decided otherwise.
func (i intended) check(t *testing.T, got []decision, diff string) {
	t.Helper()
	if diff == "" {
		t.Errorf("kube-controller-manager decides the same, and was to do otherwise: %s", i.because)
	}
	if d := cmp.Diff(i.replicas, got[0].Replicas); d != "" {
		t.Errorf("replicas (- wanted, + got):\n%s", d)
	}
	if d := cmp.Diff([]string{i.metric}, got[0].Metrics); d != "" {
		t.Errorf("metrics (- wanted, + got):\n%s", d)
	}
}

// world is what an autoscaler finds, and is.
type world struct {
	o       Observation
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
