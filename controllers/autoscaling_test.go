package controllers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	customv1beta2 "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	externalv1beta1 "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/controllers"
)

// measuring is an extension server of the three groups of metrics. Every pod uses as much CPU as cpu says, every
// other metric has the value that its name says.
type measuring struct {
	*httptest.Server
	w   *world
	cpu atomic.Int64 // thousandths
}

func (m *measuring) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) == 3:
		m.describe(w, parts[1], parts[2])
	case len(parts) < 6:
		http.NotFound(w, r)
	case parts[1] == "metrics.k8s.io":
		m.pods(w, r, parts[4])
	case parts[1] == "custom.metrics.k8s.io" && len(parts) == 8:
		value(w, &customv1beta2.MetricValueList{
			TypeMeta: metav1.TypeMeta{APIVersion: "custom.metrics.k8s.io/v1beta2", Kind: "MetricValueList"},
			Items: []customv1beta2.MetricValue{{
				DescribedObject: corev1.ObjectReference{Kind: "Service", Namespace: parts[4], Name: parts[6]},
				Metric:          customv1beta2.MetricIdentifier{Name: parts[7]}, Timestamp: metav1.Now(), Value: resource.MustParse(parts[7]),
			}},
		})
	case parts[1] == "external.metrics.k8s.io":
		value(w, &externalv1beta1.ExternalMetricValueList{
			TypeMeta: metav1.TypeMeta{APIVersion: "external.metrics.k8s.io/v1beta1", Kind: "ExternalMetricValueList"},
			Items:    []externalv1beta1.ExternalMetricValue{{MetricName: parts[5], Timestamp: metav1.Now(), Value: resource.MustParse(parts[5])}},
		})
	default:
		http.NotFound(w, r)
	}
}

func (m *measuring) describe(w http.ResponseWriter, group, version string) {
	value(w, &metav1.APIResourceList{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"}, GroupVersion: group + "/" + version,
		APIResources: []metav1.APIResource{{Name: "pods", Namespaced: true, Kind: "PodMetrics", Verbs: []string{"get", "list"}}},
	})
}

func (m *measuring) pods(w http.ResponseWriter, r *http.Request, namespace string) {
	list := &metricsv1beta1.PodMetricsList{TypeMeta: metav1.TypeMeta{APIVersion: "metrics.k8s.io/v1beta1", Kind: "PodMetricsList"}}
	pods, err := m.w.CoreV1().Pods(namespace).List(r.Context(), metav1.ListOptions{LabelSelector: r.URL.Query().Get("labelSelector")})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	for _, p := range pods.Items {
		list.Items = append(list.Items, metricsv1beta1.PodMetrics{
			// Measured after all else, so that the pod was ready for a whole window.
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: p.Name}, Timestamp: metav1.NewTime(time.Now().Add(time.Hour)),
			Containers: []metricsv1beta1.ContainerMetrics{{Name: p.Spec.Containers[0].Name, Usage: corev1.ResourceList{
				corev1.ResourceCPU: *resource.NewMilliQuantity(m.cpu.Load(), resource.DecimalSI),
			}}},
		})
	}
	value(w, list)
}

func value(w http.ResponseWriter, of any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(of)
}

// startMeasuring starts a world whose metrics come from the server that is returned.
func startMeasuring(t *testing.T) (*world, *measuring) {
	t.Helper()
	m := &measuring{}
	m.Server = httptest.NewTLSServer(m)
	t.Cleanup(m.Close)
	m.w = startWith(t, controllers.Config{AutoscalerPeriod: 200 * time.Millisecond}, func(o *apiserver.Options) {
		o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, m.Listener.Addr().String())
		}
	})
	ctx := t.Context()
	_, err := m.w.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "measuring"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}}, metav1.CreateOptions{})
	if err == nil {
		_, err = m.w.DiscoveryV1().EndpointSlices("default").Create(ctx, &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: "measuring-1", Labels: map[string]string{discoveryv1.LabelServiceName: "measuring"}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr(""), Port: ptr[int32](9443)}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.10"}}},
		}, metav1.CreateOptions{})
	}
	for _, gv := range []string{"v1beta1.metrics.k8s.io", "v1beta2.custom.metrics.k8s.io", "v1beta1.external.metrics.k8s.io"} {
		if err != nil {
			break
		}
		version, group, _ := strings.Cut(gv, ".")
		err = m.w.Discovery().RESTClient().Post().AbsPath(services).SetHeader("Content-Type", "application/json").Body([]byte(fmt.Sprintf(`{
			"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": %q}, "spec": {"group": %q, "version": %q,
			"groupPriorityMinimum": 100, "versionPriority": 100, "insecureSkipTLSVerify": true, "service": {"namespace": "default", "name": "measuring"}}}`,
			gv, group, version))).Do(ctx).Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	return m.w, m
}

// autoscale makes an autoscaler of 1 to 10 replicas.
func (w *world) autoscale(name, apiVersion, kind, target string, metric autoscalingv2.MetricSpec) {
	w.t.Helper()
	_, err := w.AutoscalingV2().HorizontalPodAutoscalers(w.namespace).Create(w.t.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: apiVersion, Kind: kind, Name: target},
			MaxReplicas:    10, Metrics: []autoscalingv2.MetricSpec{metric},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
}

// untilCondition waits for a condition of an autoscaler with a reason, and returns its message.
func (w *world) untilCondition(name string, of autoscalingv2.HorizontalPodAutoscalerConditionType, reason string) (message string) {
	w.t.Helper()
	w.eventually(name+" is "+reason, func() error {
		a, err := w.AutoscalingV2().HorizontalPodAutoscalers(w.namespace).Get(w.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range a.Status.Conditions {
			if c.Type == of && c.Reason == reason {
				message = c.Message
				return nil
			}
		}
		return fmt.Errorf("conditions: %v", a.Status.Conditions)
	})
	return message
}

var halfCPU = autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
	Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr[int32](50)},
}}

func external(metric, perPod string) autoscalingv2.MetricSpec {
	q := resource.MustParse(perPod)
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: metric}, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &q},
	}}
}

func (w *world) deploy(name string) {
	w.t.Helper()
	labels := map[string]string{"app": name}
	_, err := w.AppsV1().Deployments(w.namespace).Create(w.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "runs", Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")},
			}}}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) untilReplicas(name string, want int32) {
	w.t.Helper()
	w.eventually(fmt.Sprint(want, " replicas of ", name), func() error {
		d, err := w.AppsV1().Deployments(w.namespace).Get(w.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if *d.Spec.Replicas != want {
			return fmt.Errorf("got %d", *d.Spec.Replicas)
		}
		return nil
	})
}

// TestAutoscaling scales Deployments by metrics of each kind that extension servers serve.
func TestAutoscaling(t *testing.T) {
	w, m := startMeasuring(t)
	m.cpu.Store(150)
	for _, name := range []string{"web", "shop", "queue"} {
		w.deploy(name)
	}
	w.autoscale("web", "apps/v1", "Deployment", "web", halfCPU)
	hits := resource.MustParse("100")
	w.autoscale("shop", "apps/v1", "Deployment", "shop", autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{
		DescribedObject: autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Service", Name: "shop"},
		Metric:          autoscalingv2.MetricIdentifier{Name: "250"}, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &hits},
	}})
	w.autoscale("queue", "apps/v1", "Deployment", "queue", external("400", "100"))
	w.untilReplicas("shop", 3)
	w.untilReplicas("queue", 4)
	// Every pod uses three times its share, however many there are.
	w.untilReplicas("web", 10)
	if got := w.untilCondition("web", autoscalingv2.ScalingLimited, "TooManyReplicas"); got != "the desired replica count is more than the maximum replica count" {
		t.Errorf("got %q", got)
	}
	w.eventually("the event", func() error {
		events, err := w.CoreV1().Events(w.namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=queue,reason=SuccessfulRescale"})
		if err != nil {
			return err
		}
		if len(events.Items) != 1 || events.Items[0].Message != "New size: 4; reason: external metric 400(nil) above target" || events.Items[0].Source.Component != "horizontal-pod-autoscaler" {
			return fmt.Errorf("events: %v", events.Items)
		}
		return nil
	})
}

// TestAutoscalingACustomKind scales a kind that is defined after the controllers have begun.
func TestAutoscalingACustomKind(t *testing.T) {
	w, _ := startMeasuring(t)
	ctx := t.Context()
	w.autoscale("boats", "example.com/v1", "Boat", "boat", external("400", "100"))
	if got := w.untilCondition("boats", autoscalingv2.AbleToScale, "FailedGetScale"); !strings.HasSuffix(got, `no matches for kind "Boat" in group "example.com"`) {
		t.Errorf("got %q", got)
	}
	post := func(path, body string) {
		w.eventually("POST "+path, func() error {
			return w.Discovery().RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(ctx).Error()
		})
	}
	post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition",
		"metadata":{"name":"boats.example.com"},"spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"boats","kind":"Boat"},"versions":[{"name":"v1",
		"served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{"crew":{"type":"integer"}}},
		"status":{"type":"object","properties":{"crew":{"type":"integer"},"selector":{"type":"string"}}}}}},
		"subresources":{"status":{},"scale":{"specReplicasPath":".spec.crew","statusReplicasPath":".status.crew","labelSelectorPath":".status.selector"}}}]}}`)
	post("/apis/example.com/v1/namespaces/"+w.namespace+"/boats", `{"apiVersion":"example.com/v1","kind":"Boat","metadata":{"name":"boat"},"spec":{"crew":1}}`)
	if got := w.untilCondition("boats", autoscalingv2.ScalingActive, "InvalidSelector"); got != "the HPA target's scale is missing a selector" {
		t.Errorf("got %q", got)
	}
	boat := func() string { return "/apis/example.com/v1/namespaces/" + w.namespace + "/boats/boat" }
	err := w.Discovery().RESTClient().Patch("application/merge-patch+json").AbsPath(boat() + "/status").
		Body([]byte(`{"status":{"crew":1,"selector":"app=boat"}}`)).Do(ctx).Error()
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("a crew of four", func() error {
		raw, err := w.Discovery().RESTClient().Get().AbsPath(boat()).SetHeader("Accept", "application/json").DoRaw(ctx)
		if err == nil && !strings.Contains(string(raw), `"crew":4`) {
			err = fmt.Errorf("got %s", raw)
		}
		return err
	})
}

// TestAutoscalingThatCannotBe tells what is wrong in the words of Kubernetes, and goes on with the rest.
func TestAutoscalingThatCannotBe(t *testing.T) {
	w, _ := startMeasuring(t)
	ctx := t.Context()
	for _, name := range []string{"twice", "well"} {
		w.deploy(name)
	}
	w.autoscale("one", "apps/v1", "Deployment", "twice", halfCPU)
	w.autoscale("two", "apps/v1", "Deployment", "twice", halfCPU)
	want := "pods by selector app=twice are controlled by multiple HPAs: [test/one test/two]"
	for _, name := range []string{"one", "two"} {
		if got := w.untilCondition(name, autoscalingv2.ScalingActive, "AmbiguousSelector"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	w.autoscale("job", "batch/v1", "Job", "job", halfCPU) // which has no scale
	w.autoscale("none", "apps/v1", "Deployment", "none", halfCPU)
	for name, want := range map[string]string{
		"job":  "the HPA controller was unable to get the target's current scale: the server could not find the requested resource",
		"none": `the HPA controller was unable to get the target's current scale: deployments.apps "none" not found`,
	} {
		if got := w.untilCondition(name, autoscalingv2.AbleToScale, "FailedGetScale"); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	w.autoscale("well", "apps/v1", "Deployment", "well", external("200", "100"))
	w.untilReplicas("well", 2)
	// One of the two goes, and the other one is alone with its pods.
	if err := w.AutoscalingV2().HorizontalPodAutoscalers(w.namespace).Delete(ctx, "two", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.untilCondition("one", autoscalingv2.ScalingActive, "ValidMetricFound")
}
