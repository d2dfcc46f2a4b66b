// Package autoscaling records what the autoscaler of kube-controller-manager decides. It plays the scenarios of
// controllers/autoscaling/decide/testdata/scenarios.yaml to it, whose metrics, scales and time are given, and writes
// decisions.yaml beside them:
//
//	cd third_party/kubernetes && go test ./autoscaling  # not -mod=mod: tools are built anew when go.mod changes
package autoscaling

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/scale"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/podautoscaler"
	"k8s.io/kubernetes/pkg/controller/podautoscaler/metrics"
	"sigs.k8s.io/yaml"
)

const folder = "../../../controllers/autoscaling/decide/testdata"

// period is the time between two decisions.
const period = 15 * time.Second

type scenario struct {
	Name  string                                    `json:"name"`
	Spec  autoscalingv2.HorizontalPodAutoscalerSpec `json:"spec"`
	Steps []step                                    `json:"steps"`
}

// step is what is found for so many decisions; what it does not say is as before.
type step struct {
	Times       int      `json:"times,omitempty"`
	Replicas    *int32   `json:"replicas,omitempty"`
	Status      *int32   `json:"status,omitempty"`
	Selector    *string  `json:"selector,omitempty"`
	Pods        []pod    `json:"pods,omitempty"`
	Metrics     []metric `json:"metrics,omitempty"`
	ScaleError  string   `json:"scaleError,omitempty"`
	ResizeError string   `json:"resizeError,omitempty"`
}

type pod struct {
	Name    string            `json:"name"`
	Phase   corev1.PodPhase   `json:"phase,omitempty"`
	Ready   string            `json:"ready,omitempty"`   // True, False, or none
	Started string            `json:"started,omitempty"` // how long ago
	Since   string            `json:"since,omitempty"`   // how long ago readiness changed
	Deleted bool              `json:"deleted,omitempty"`
	Request map[string]string `json:"request,omitempty"` // cpu by container
	Sidecar map[string]string `json:"sidecar,omitempty"`
	Whole   string            `json:"whole,omitempty"` // cpu of the pod
}

type metric struct {
	Pods   map[string]int64 `json:"pods,omitempty"`
	Values []int64          `json:"values,omitempty"`
	Error  string           `json:"error,omitempty"`
	Age    string           `json:"age,omitempty"`
	Window string           `json:"window,omitempty"`
}

// decision is what was done and told after one step.
type decision struct {
	Replicas   []int32  `json:"replicas"` // after each decision
	Current    int32    `json:"current"`
	Desired    int32    `json:"desired"`
	Scaled     string   `json:"scaled,omitempty"` // the time of the last change, after the start
	Conditions []string `json:"conditions"`
	Metrics    []string `json:"metrics,omitempty"`
	Events     []string `json:"events,omitempty"`
}

type recorded struct {
	Name  string     `json:"name"`
	Steps []decision `json:"steps"`
}

func TestRecord(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(folder, "scenarios.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var scenarios []scenario
	if err := yaml.UnmarshalStrict(text, &scenarios); err != nil {
		t.Fatal(err)
	}
	quiet := utilruntime.ErrorHandlers
	utilruntime.ErrorHandlers = nil // one of them slows down who errs, by a clock that all scenarios share
	t.Cleanup(func() { utilruntime.ErrorHandlers = quiet })
	all := make([]recorded, len(scenarios))
	for i, s := range scenarios {
		t.Run(s.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { all[i] = recorded{s.Name, play(t, s)} })
		})
	}
	out, err := yaml.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	head := "# What kube-controller-manager v1.36.3 decides in scenarios.yaml; written by third_party/kubernetes/autoscaling.\n"
	if err := os.WriteFile(filepath.Join(folder, "decisions.yaml"), append([]byte(head), out...), 0o644); err != nil {
		t.Fatal(err)
	}
}

// world is what the autoscaler finds.
type world struct {
	spec  autoscalingv2.HorizontalPodAutoscalerSpec
	now   step
	at    time.Time // of the first decision of the step
	scale autoscalingv1.Scale
}

func play(t *testing.T, s scenario) []decision {
	ctx, stop := context.WithCancel(t.Context())
	defer func() { stop(); time.Sleep(time.Minute) }() // what runs notices in time that it is to end
	w := &world{spec: s.Spec}
	w.scale.Name, w.scale.Namespace, w.scale.Status.Selector = s.Spec.ScaleTargetRef.Name, "ns", "app=a"
	client := fake.NewSimpleClientset(&autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", UID: types.UID("1")}, Spec: s.Spec})
	events := &events{}
	ctx = klog.NewContext(ctx, logr.New(events))
	// The scaleError of a target of another kind is what this mapper says of it.
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{{Group: "apps", Version: "v1"}})
	mapper.Add(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, meta.RESTScopeNamespace)
	factory := informers.NewSharedInformerFactory(client, 0)
	c := podautoscaler.NewHorizontalController(ctx, client.CoreV1(), w, client.AutoscalingV2(), mapper, w,
		factory.Autoscaling().V2().HorizontalPodAutoscalers(), factory.Core().V1().Pods(),
		period, 5*time.Minute, 0.1, 5*time.Minute, 30*time.Second)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	synctest.Wait()
	start := time.Now()
	go c.Run(ctx, 1)
	time.Sleep(time.Millisecond) // from here on decisions fall between the steps
	var all []decision
	for _, step := range s.Steps {
		w.enter(ctx, t, client, step, start.Add(period*time.Duration(1+ticks(all))))
		events.told = nil
		var d decision
		for range max(step.Times, 1) {
			time.Sleep(period)
			synctest.Wait()
			d.Replicas = append(d.Replicas, w.scale.Spec.Replicas)
		}
		d.Events = events.told
		d.fill(ctx, t, client, start)
		all = append(all, d)
	}
	return all
}

func ticks(all []decision) (n int) {
	for _, d := range all {
		n += len(d.Replicas)
	}
	return n
}

// events takes them from the log: the API gets them only after those that are alike have been made one.
type events struct{ told []string }

func (e *events) Info(_ int, message string, pairs ...any) {
	if message != "Event occurred" {
		return
	}
	found := map[any]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		found[pairs[i]] = pairs[i+1]
	}
	e.told = append(e.told, fmt.Sprintf("%v %v: %v", found["type"], found["reason"], found["message"]))
}

func (e *events) Init(logr.RuntimeInfo)          {}
func (e *events) Enabled(int) bool               { return true }
func (e *events) Error(error, string, ...any)    {}
func (e *events) WithValues(...any) logr.LogSink { return e }
func (e *events) WithName(string) logr.LogSink   { return e }

func (d *decision) fill(ctx context.Context, t *testing.T, client *fake.Clientset, start time.Time) {
	a, err := client.AutoscalingV2().HorizontalPodAutoscalers("ns").Get(ctx, "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d.Current, d.Desired = a.Status.CurrentReplicas, a.Status.DesiredReplicas
	if at := a.Status.LastScaleTime; at != nil {
		d.Scaled = at.Sub(start).String()
	}
	for _, c := range a.Status.Conditions {
		d.Conditions = append(d.Conditions, fmt.Sprintf("%s=%s since %s, %s: %s", c.Type, c.Status, c.LastTransitionTime.Sub(start), c.Reason, c.Message))
	}
	for _, m := range a.Status.CurrentMetrics {
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		d.Metrics = append(d.Metrics, string(text))
	}
}

// enter makes the world as a step says. at is the time of the next decision.
func (w *world) enter(ctx context.Context, t *testing.T, client *fake.Clientset, s step, at time.Time) {
	pods, found := w.now.Pods, w.now.Metrics
	if w.now, w.at = s, at; s.Metrics == nil {
		w.now.Metrics = found
	}
	if s.Replicas != nil {
		w.scale.Spec.Replicas, w.scale.Status.Replicas = *s.Replicas, *s.Replicas
	}
	if s.Status != nil {
		w.scale.Status.Replicas = *s.Status
	}
	if s.Selector != nil {
		w.scale.Status.Selector = *s.Selector
	}
	if s.Pods == nil {
		return
	}
	for _, p := range pods {
		if err := client.CoreV1().Pods("ns").Delete(ctx, p.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range s.Pods {
		if _, err := client.CoreV1().Pods("ns").Create(ctx, p.object(at), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
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
	o := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: p.Name, Labels: map[string]string{"app": "a"}}}
	if p.Deleted {
		o.DeletionTimestamp = &metav1.Time{Time: at}
		o.Finalizers = []string{"example.com/held"}
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

// The scales.

func (w *world) Scales(string) scale.ScaleInterface { return w }

func (w *world) Get(context.Context, schema.GroupResource, string, metav1.GetOptions) (*autoscalingv1.Scale, error) {
	if w.now.ScaleError != "" {
		return nil, errors.New(w.now.ScaleError)
	}
	return w.scale.DeepCopy(), nil
}

func (w *world) Update(_ context.Context, _ schema.GroupResource, s *autoscalingv1.Scale, _ metav1.UpdateOptions) (*autoscalingv1.Scale, error) {
	if w.now.ResizeError != "" {
		return nil, errors.New(w.now.ResizeError)
	}
	w.scale.Spec.Replicas, w.scale.Status.Replicas = s.Spec.Replicas, s.Spec.Replicas
	return s, nil
}

func (w *world) Patch(context.Context, schema.GroupVersionResource, string, types.PatchType, []byte, metav1.PatchOptions) (*autoscalingv1.Scale, error) {
	return nil, errors.New("scales are not patched")
}

// The metrics.

func (w *world) find(is func(autoscalingv2.MetricSpec) bool) (metric, error) {
	for i, s := range w.spec.Metrics {
		if is(s) && i < len(w.now.Metrics) {
			if m := w.now.Metrics[i]; m.Error == "" {
				return m, nil
			}
			return metric{}, errors.New(w.now.Metrics[i].Error)
		}
	}
	return metric{}, errors.New("the scenario has no such metric")
}

func (w *world) samples(m metric) metrics.PodMetricsInfo {
	all := metrics.PodMetricsInfo{}
	for name, value := range m.Pods {
		window, err := time.ParseDuration(or(m.Window, "15s"))
		if err != nil {
			panic(err)
		}
		all[name] = metrics.PodMetric{Timestamp: ago(w.at, or(m.Age, "0s")), Window: window, Value: value}
	}
	return all
}

func (w *world) GetResourceMetric(_ context.Context, of corev1.ResourceName, _ string, _ labels.Selector, container string) (metrics.PodMetricsInfo, time.Time, error) {
	m, err := w.find(func(s autoscalingv2.MetricSpec) bool {
		return s.Resource != nil && s.Resource.Name == of && container == "" ||
			s.ContainerResource != nil && s.ContainerResource.Name == of && s.ContainerResource.Container == container
	})
	return w.samples(m), w.at, err
}

func (w *world) GetRawMetric(name, _ string, _, _ labels.Selector) (metrics.PodMetricsInfo, time.Time, error) {
	m, err := w.find(func(s autoscalingv2.MetricSpec) bool { return s.Pods != nil && s.Pods.Metric.Name == name })
	return w.samples(m), w.at, err
}

func (w *world) GetObjectMetric(name, _ string, _ *autoscalingv2.CrossVersionObjectReference, _ labels.Selector) (int64, time.Time, error) {
	m, err := w.find(func(s autoscalingv2.MetricSpec) bool { return s.Object != nil && s.Object.Metric.Name == name })
	if err != nil {
		return 0, time.Time{}, err
	}
	return m.Values[0], w.at, nil
}

func (w *world) GetExternalMetric(name, _ string, _ labels.Selector) ([]int64, time.Time, error) {
	m, err := w.find(func(s autoscalingv2.MetricSpec) bool { return s.External != nil && s.External.Metric.Name == name })
	return m.Values, w.at, err
}
