package controllers_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/inprocess"
	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/family"
)

// world is an API server with all controllers, and kubelets that only pretend.
type world struct {
	kubernetes.Interface
	t         *testing.T
	server    *apiserver.Server
	namespace string
	// restart ends the controllers, whatever they are at, and runs others that know only what the server does.
	restart func()
}

// nodes are the nodes whose kubelets pretend.
var nodes = []string{"n1", "n2"}

// start starts a world with a namespace for the test. It ends with the test.
func start(t *testing.T) *world { return startWith(t, controllers.Config{}) }

// startWith starts a world whose controllers are configured so, and whose server has its options changed.
func startWith(t *testing.T, c controllers.Config, change ...func(*apiserver.Options)) *world {
	t.Helper()
	server := apiservertest.Start(t, func(o *apiserver.Options) {
		c.ServiceAccountKey = o.ServiceAccountKey
		for _, f := range change {
			f(o)
		}
	})
	// The controllers have the rights of their user, the test has all.
	config := apiservertest.Config(server, user.KubeControllerManager, user.AllAuthenticated)
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	admin := typed(t, apiservertest.Config(server, "admin"))
	c.Client, c.Metadata, c.API = typed(t, config), meta, config
	c.RootCA, c.PodCIDRs = []byte("the authority"), family.MustParse("10.244.0.0/16,fd00:10:244::/56")
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	stopControllers := runControllers(ctx, t, server, c)
	t.Cleanup(func() { stopControllers() })
	w := &world{Interface: admin, t: t, server: server, namespace: "test", restart: func() {
		stopControllers()
		stopControllers = runControllers(ctx, t, server, c)
	}}
	pretend(ctx, t, admin, &running)

	_, err = admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("the default service account", func() error {
		_, err := admin.CoreV1().ServiceAccounts(w.namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return w
}

// runControllers runs controllers with informers of their own, as they run in the process of the server, until stop is called.
func runControllers(ctx context.Context, t *testing.T, server *apiserver.Server, c controllers.Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	who := &user.DefaultInfo{Name: user.KubeControllerManager, Groups: []string{user.AllAuthenticated}}
	c.Informers = inprocess.Informers(server, who, "controllers", c.Client)
	manager, err := controllers.New(c)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := manager.Run(ctx); err != nil {
			t.Errorf("controllers: %v", err)
		}
	})
	c.Informers.Start(ctx.Done())
	return func() {
		cancel()
		running.Wait()
		c.Informers.Shutdown()
	}
}

// typed makes a client that speaks protobuf.
func typed(t *testing.T, config *rest.Config) kubernetes.Interface {
	t.Helper()
	config = rest.CopyConfig(config)
	config.ContentType = runtime.ContentTypeProtobuf
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// eventually waits until check finds nothing wrong.
func (w *world) eventually(what string, check func() error) {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// pods lists the pods of the namespace that match a selector.
func (w *world) pods(selector string) []corev1.Pod {
	w.t.Helper()
	list, err := w.CoreV1().Pods(w.namespace).List(w.t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		w.t.Fatal(err)
	}
	return list.Items
}

// gone checks that a get finds nothing.
func gone(err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("still there")
}

// pretend does what schedulers and kubelets would: it binds pods, runs them, and removes those deleted. What a
// container does its image says: "stuck" never gets ready, "ok" and "fail" end, anything else runs. The nodes
// report until the test takes them down.
func pretend(ctx context.Context, t *testing.T, client kubernetes.Interface, running *sync.WaitGroup) {
	t.Helper()
	for _, name := range nodes {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
		if _, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		running.Go(func() { report(ctx, client, name) })
	}
	informer := informers.NewSharedInformerFactory(client, 0).Core().V1().Pods().Informer()
	next := 0
	step := func(obj any) {
		pod := obj.(*corev1.Pod)
		if pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
			next++
			bind(ctx, client, pod, nodes[next%len(nodes)])
			return
		}
		running.Go(func() { run(ctx, client, pod) })
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: step, UpdateFunc: func(_, obj any) { step(obj) }})
	if err != nil {
		t.Fatal(err)
	}
	running.Go(func() { informer.Run(ctx.Done()) })
}

// report says that a node is well, again and again, unless it carries the label "down".
func report(ctx context.Context, client kubernetes.Interface, name string) {
	for ctx.Err() == nil {
		node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err == nil && node.Labels["down"] == "" {
			node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
			_, _ = client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func bind(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, node string) {
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			node = term.MatchFields[0].Values[0]
		}
	}
	_ = client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace}, Target: corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
}

// run brings a pod one step on. Errors mean that the pod is gone or has changed, and then there is another step.
func run(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		now := int64(0)
		_ = client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
		})
		return
	}
	image := pod.Spec.Containers[0].Image
	pod = pod.DeepCopy()
	ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}
	container := corev1.ContainerStatus{Name: pod.Spec.Containers[0].Name, Image: image}
	switch {
	case pod.Status.Phase == corev1.PodPending && !strings.HasPrefix(image, "stuck"):
		pod.Status.Phase, pod.Status.StartTime = corev1.PodRunning, &ready.LastTransitionTime
		pod.Status.PodIP = fmt.Sprintf("10.244.0.%d", 1+len(pod.UID)%200)
		pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
		container.State.Running = &corev1.ContainerStateRunning{}
	case pod.Status.Phase == corev1.PodRunning && (image == "ok" || image == "fail"):
		ready.Status = corev1.ConditionFalse
		pod.Status.Phase = corev1.PodSucceeded
		container.State.Terminated = &corev1.ContainerStateTerminated{FinishedAt: metav1.Now()}
		if image == "fail" {
			pod.Status.Phase = corev1.PodFailed
			container.State.Terminated.ExitCode = 3
		}
	default:
		return
	}
	pod.Status.Conditions = []corev1.PodCondition{ready}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{container}
	_, _ = client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
}

// template makes a pod template with one container.
func template(app, image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
	}
}

func selector(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

func ptr[T any](v T) *T { return &v }
