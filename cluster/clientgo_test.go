package cluster_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/skiff-k8s/skiff/cluster/clustertest"
)

// TestClientGo is a client-go program like any other, run against the product
// over TLS: informers that stream their first list, leader election, the dynamic
// client, protobuf.
func TestClientGo(t *testing.T) {
	c := clustertest.New(t, 0)
	c.Start(t)
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	t.Run("informer", func(t *testing.T) { useInformer(t, config) })
	t.Run("leader election", func(t *testing.T) { electLeader(t, config) })
	t.Run("dynamic", func(t *testing.T) { useDynamic(t, config) })
	c.Stop(t)
}

func protobuf(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	return config
}

// useInformer writes objects before and after an informer starts, and expects
// the informer to end with just those.
func useInformer(t *testing.T, config *rest.Config) {
	client, err := kubernetes.NewForConfig(protobuf(config))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	create := func(i int) {
		_, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("seen-%d", i), Labels: map[string]string{"seen": "yes"}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		create(i)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace("default"),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = "seen=yes" }))
	var mu sync.Mutex
	counts := make(map[string]int)
	count := func(what string) { mu.Lock(); defer mu.Unlock(); counts[what]++ }
	informer := factory.Core().V1().ConfigMaps().Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { count("added") },
		UpdateFunc: func(_, _ any) { count("updated") },
		DeleteFunc: func(any) { count("deleted") },
	}); err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		t.Fatal("the informer did not sync")
	}
	create(5)
	changed, err := client.CoreV1().ConfigMaps("default").Get(ctx, "seen-0", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	changed.Data = map[string]string{"a": "b"}
	if _, err := client.CoreV1().ConfigMaps("default").Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().ConfigMaps("default").Delete(ctx, "seen-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"added": 6, "updated": 1, "deleted": 1}
	waitFor(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprint(counts) == fmt.Sprint(want)
	}, func() string {
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprintf("events: got %v, want %v", counts, want)
	})
}

// electLeader lets two candidates run for one lease: the second leads only when
// the first has gone.
func electLeader(t *testing.T, config *rest.Config) {
	client, err := kubernetes.NewForConfig(protobuf(config))
	if err != nil {
		t.Fatal(err)
	}
	led := make(chan string, 2)
	run := func(ctx context.Context, name string) {
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta: metav1.ObjectMeta{Namespace: "default", Name: "lead"}, Client: client.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: name},
			},
			LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 200 * time.Millisecond, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { led <- name },
				OnStoppedLeading: func() {},
			},
		})
	}
	first, stopFirst := context.WithCancel(t.Context())
	var candidates sync.WaitGroup
	candidates.Go(func() { run(first, "first") })
	if got := <-led; got != "first" {
		t.Errorf("the only candidate: got leader %s", got)
	}
	second, stopSecond := context.WithCancel(t.Context())
	candidates.Go(func() { run(second, "second") })
	select {
	case got := <-led:
		t.Errorf("%s leads beside the first", got)
	case <-time.After(time.Second):
	}
	stopFirst()
	if got := <-led; got != "second" {
		t.Errorf("after the first left: got leader %s", got)
	}
	stopSecond()
	candidates.Wait()
}

// useDynamic creates, applies, lists and deletes objects without their types.
func useDynamic(t *testing.T, config *rest.Config) {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	deployments := client.Resource(appsv1.SchemeGroupVersion.WithResource("deployments")).Namespace("default")
	deployment := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"name": "dynamic"},
		"spec": map[string]any{
			"replicas": int64(0),
			"selector": map[string]any{"matchLabels": map[string]any{"app": "dynamic"}},
			"template": map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"app": "dynamic"}},
				"spec":     map[string]any{"containers": []any{map[string]any{"name": "c", "image": "x"}}},
			},
		},
	}}
	ctx := t.Context()
	applied, err := deployments.Apply(ctx, "dynamic", deployment, metav1.ApplyOptions{FieldManager: "test"})
	if err != nil {
		t.Fatal(err)
	}
	policy, _, _ := unstructured.NestedString(applied.Object, "spec", "template", "spec", "restartPolicy")
	if policy != "Always" {
		t.Errorf("default of restartPolicy: got %q, want Always", policy)
	}
	list, err := deployments.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=dynamic"})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 {
		t.Errorf("got %d deployments, want 1", len(list.Items))
	}
	if err := deployments.Delete(ctx, "dynamic", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, done func() bool, state func() string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(state())
		}
	}
}
