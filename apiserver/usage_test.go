package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	aggregator "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// usageNode makes a node with a pod on it, and a kubelet that answers for both, or none that answers at all.
func usageNode(t *testing.T, client kubernetes.Interface, name string, answers bool) {
	t.Helper()
	began := time.Now()
	kubelet := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answers {
			<-r.Context().Done()
			return
		}
		now := time.Now()
		cpu := 1000 + now.Sub(began).Seconds()/4
		fmt.Fprintf(w, "node_cpu_usage_seconds_total %f %d\nnode_memory_working_set_bytes 1048576 %d\n", 2*cpu, now.UnixMilli(), now.UnixMilli())
		for _, pod := range []string{"on-" + name, "on-node-a"} { // the second may be another node's
			for _, container := range []string{"one", "two"} {
				labels := fmt.Sprintf(`{container=%q,namespace="default",pod=%q}`, container, pod)
				fmt.Fprintf(w, "container_cpu_usage_seconds_total%s %f %d\n", labels, cpu, now.UnixMilli())
				fmt.Fprintf(w, "container_memory_working_set_bytes%s 2097152 %d\n", labels, now.UnixMilli())
				fmt.Fprintf(w, "container_start_time_seconds%s %d\n", labels, began.Add(-time.Hour).Unix())
			}
		}
	}))
	t.Cleanup(kubelet.Close)
	host, port, err := net.SplitHostPort(kubelet.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	node, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"of": name}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status = corev1.NodeStatus{
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: host}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(number)}},
		Conditions:      []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}
	if _, err := client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "on-" + name, Labels: map[string]string{"on": name}}}
	pod.Spec.NodeName = name
	for _, c := range []string{"one", "two"} {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c, Image: "none"})
	}
	if _, err := client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func usageServer(t *testing.T) (*rest.Config, kubernetes.Interface, metricsclient.Interface) {
	t.Helper()
	config := apiservertest.Config(apiservertest.Start(t, func(*apiserver.Options) {}), "admin")
	client := kubernetes.NewForConfigOrDie(config)
	if _, err := client.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return config, client, metricsclient.NewForConfigOrDie(config)
}

// TestUsage asks for what two nodes and their pods use, one of which does not answer: the other is told of all the
// same, in its own words alone.
func TestUsage(t *testing.T) {
	config, client, metrics := usageServer(t)
	ctx := t.Context()
	if list, err := metrics.MetricsV1beta1().NodeMetricses().List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) > 0 {
		t.Errorf("without nodes: got %v, %v, want an empty list", list, err)
	}
	usageNode(t, client, "node-a", false)
	usageNode(t, client, "node-b", true)

	var pods []string
	eventually(t, "the metrics of a pod", func() bool {
		list, err := metrics.MetricsV1beta1().PodMetricses("").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pods = nil
		for _, m := range list.Items {
			pods = append(pods, m.Name)
			for _, c := range m.Containers {
				if got := c.Usage.Cpu().MilliValue(); got < 240 || got > 260 {
					t.Errorf("container %s of %s uses %dm, want 250m", c.Name, m.Name, got)
				}
				if got := c.Usage.Memory().String(); got != "2Mi" {
					t.Errorf("container %s of %s uses %s, want 2Mi", c.Name, m.Name, got)
				}
			}
			if m.Window.Duration <= 0 || m.Timestamp.IsZero() || m.Labels["on"] != "node-b" || len(m.Containers) != 2 {
				t.Errorf("got %+v", m)
			}
		}
		return len(pods) > 0
	})
	if fmt.Sprint(pods) != "[on-node-b]" {
		t.Errorf("got pods %v, want on-node-b alone", pods)
	}
	node, err := metrics.MetricsV1beta1().NodeMetricses().Get(ctx, "node-b", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := node.Usage.Cpu().MilliValue(); got < 490 || got > 510 || node.Labels["of"] != "node-b" {
		t.Errorf("got %+v, want 500m", node)
	}
	for selector, want := range map[string]int{"on=node-b": 1, "on=node-c": 0} {
		list, err := metrics.MetricsV1beta1().PodMetricses("default").List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil || len(list.Items) != want {
			t.Errorf("%s: got %v, %v, want %d", selector, list, err, want)
		}
	}
	list, err := metrics.MetricsV1beta1().NodeMetricses().List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=node-b"})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("got %v, %v, want node-b", list, err)
	}

	testUsageErrors(ctx, t, metrics)
	testUsageTable(ctx, t, client)
	testUsageDescribed(ctx, t, config, client)
}

// testUsageErrors compares with the words of metrics-server.
func testUsageErrors(ctx context.Context, t *testing.T, metrics metricsclient.Interface) {
	_, noNode := metrics.MetricsV1beta1().NodeMetricses().Get(ctx, "node-c", metav1.GetOptions{})
	_, deadNode := metrics.MetricsV1beta1().NodeMetricses().Get(ctx, "node-a", metav1.GetOptions{})
	_, noPod := metrics.MetricsV1beta1().PodMetricses("default").Get(ctx, "p", metav1.GetOptions{})
	_, deadPod := metrics.MetricsV1beta1().PodMetricses("default").Get(ctx, "on-node-a", metav1.GetOptions{})
	_, watched := metrics.MetricsV1beta1().NodeMetricses().Watch(ctx, metav1.ListOptions{})
	for _, c := range []struct {
		err  error
		want string
		is   func(error) bool
	}{
		{noNode, `node "node-c" not found`, apierrors.IsNotFound},
		{deadNode, `nodemetrics.metrics.k8s.io "node-a" not found`, apierrors.IsNotFound},
		{noPod, `pods "p" not found`, apierrors.IsNotFound},
		{deadPod, `podmetrics.metrics.k8s.io "default/on-node-a" not found`, apierrors.IsNotFound},
		{watched, `watch is not supported on resources of kind "nodes.metrics.k8s.io"`, apierrors.IsMethodNotSupported},
	} {
		if !c.is(c.err) || !strings.HasPrefix(c.err.Error(), c.want) {
			t.Errorf("got %v, want %s", c.err, c.want)
		}
	}
}

func testUsageTable(ctx context.Context, t *testing.T, client kubernetes.Interface) {
	raw, err := client.Discovery().RESTClient().Get().AbsPath("/apis/metrics.k8s.io/v1beta1/pods").
		SetHeader("Accept", "application/json;as=Table;g=meta.k8s.io;v=v1").DoRaw(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var table metav1.Table
	if err := json.Unmarshal(raw, &table); err != nil {
		t.Fatal(err)
	}
	var columns []string
	for _, c := range table.ColumnDefinitions {
		columns = append(columns, c.Name+" "+c.Type+" "+c.Format)
	}
	if got := fmt.Sprint(columns); got != "[Name string name cpu string quantity memory string quantity Window string duration]" {
		t.Errorf("got columns %s", got)
	}
	if len(table.Rows) != 1 || table.Rows[0].Cells[0] != "on-node-b" || table.Rows[0].Cells[2] != "4Mi" {
		t.Errorf("got rows %+v, want on-node-b with 4Mi", table.Rows)
	}
}

// testUsageDescribed asks for what clients and installers look at before they use the group.
func testUsageDescribed(ctx context.Context, t *testing.T, config *rest.Config, client kubernetes.Interface) {
	list, err := client.Discovery().ServerResourcesForGroupVersion("metrics.k8s.io/v1beta1")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range list.APIResources {
		got = append(got, fmt.Sprint(r.Name, " ", r.Kind, " ", r.Namespaced, " ", r.Verbs))
	}
	if fmt.Sprint(got) != "[nodes NodeMetrics false [get list] pods PodMetrics true [get list]]" {
		t.Errorf("got resources %v", got)
	}
	services := dynamic.NewForConfigOrDie(config).Resource(aggregator.SchemeGroupVersion.WithResource("apiservices"))
	if _, err := services.Get(ctx, "v1beta1.metrics.k8s.io", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("got %v; a chart of metrics-server makes the APIService, and must not find one", err)
	}
	role, err := client.RbacV1().ClusterRoles().Get(ctx, "view", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(fmt.Sprint(role.Rules), "metrics.k8s.io") {
		t.Errorf("who may view may not see what is used: %v", role.Rules)
	}
}
