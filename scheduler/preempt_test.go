package scheduler

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// gate lets no pod be deleted before it is opened.
type gate struct {
	http.RoundTripper
	closed, open chan struct{} // closed is closed when somebody waits
	once         sync.Once
}

func (g *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "/pods/") {
		g.once.Do(func() { close(g.closed) })
		select {
		case <-g.open:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	return g.RoundTripper.RoundTrip(r)
}

// TestOthersArePlacedWhileRoomIsMade has an eviction hang in the API, places another pod meanwhile, and lets it go on.
func TestOthersArePlacedWhileRoomIsMade(t *testing.T) {
	server := apiservertest.Start(t, nil)
	admin := kubernetes.NewForConfigOrDie(apiservertest.Config(server, "admin"))
	ctx, stop := context.WithCancel(t.Context())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, metav1.CreateOptions{})
	must(err)
	_, err = admin.CoreV1().ServiceAccounts("ns").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	must(err)
	_, err = admin.SchedulingV1().PriorityClasses().Create(ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 10}, metav1.CreateOptions{})
	must(err)
	for name, cpu := range map[string]string{"a": "2", "b": "1"} {
		node, err := admin.CoreV1().Nodes().Create(ctx, testNode(name, cpu).Node, metav1.CreateOptions{})
		must(err)
		node.Spec.Taints = nil // what it has until it is ready
		_, err = admin.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
		must(err)
	}

	g := &gate{closed: make(chan struct{}), open: make(chan struct{})}
	config := apiservertest.Config(server, "admin")
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { g.RoundTripper = rt; return g })
	client := kubernetes.NewForConfigOrDie(config)
	factory := informers.NewSharedInformerFactory(client, 0)
	s, err := New(Config{Client: client, Informers: factory})
	must(err)
	factory.Start(ctx.Done())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); running.Wait(); factory.Shutdown() })

	watch, err := admin.CoreV1().Pods("ns").Watch(ctx, metav1.ListOptions{})
	must(err)
	defer watch.Stop()
	place := func(name, cpu, class string) {
		_, err := admin.CoreV1().Pods("ns").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To(int64(0)), PriorityClassName: class,
			Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)},
			}}},
		}}, metav1.CreateOptions{})
		must(err)
	}
	awaitBound := func(name string) {
		for e := range watch.ResultChan() {
			if pod, ok := e.Object.(*corev1.Pod); ok && pod.Name == name && pod.Spec.NodeName != "" {
				return
			}
		}
		t.Fatalf("%s is not bound", name)
	}
	place("victim", "1500m", "")
	awaitBound("victim")
	place("urgent", "1500m", "high")
	<-g.closed
	place("other", "100m", "")
	awaitBound("other")
	close(g.open)
	awaitBound("urgent")
}
