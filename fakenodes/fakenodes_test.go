package fakenodes_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/inprocess"
	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/fakenodes"
	"github.com/skiff-k8s/skiff/scheduler"
)

// world is a control plane with fake nodes.
type world struct {
	kubernetes.Interface
	t       *testing.T
	server  *apiserver.Server
	restart func() // has other fake nodes take over
}

func start(t *testing.T, count int) *world {
	t.Helper()
	c := controllers.Config{RootCA: []byte("the authority"), PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}
	server := apiservertest.Start(t, func(o *apiserver.Options) { c.ServiceAccountKey = o.ServiceAccountKey })
	w := &world{Interface: client(t, apiservertest.Config(server, "admin")), t: t, server: server}
	c.API = apiservertest.Config(server, user.KubeControllerManager, user.AllAuthenticated)
	c.Client = client(t, c.API)
	var err error
	if c.Metadata, err = metadata.NewForConfig(c.API); err != nil {
		t.Fatal(err)
	}
	manages := &user.DefaultInfo{Name: user.KubeControllerManager, Groups: []string{user.AllAuthenticated}}
	c.Informers = inprocess.Informers(server, manages, "controllers", c.Client)
	manager, err := controllers.New(c)
	if err != nil {
		t.Fatal(err)
	}
	placing := client(t, apiservertest.Config(server, user.KubeScheduler, user.AllAuthenticated))
	s, err := scheduler.New(scheduler.Config{Client: placing, Informers: c.Informers})
	if err != nil {
		t.Fatal(err)
	}
	stop := running(t, c.Informers, manager.Run, s.Run)
	t.Cleanup(stop)
	stopNodes := w.play(count)
	t.Cleanup(func() { stopNodes() })
	w.restart = func() {
		stopNodes()
		stopNodes = w.play(count)
	}
	w.eventually("the default service account", func() error {
		_, err := w.CoreV1().ServiceAccounts("default").Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	w.eventually("nodes that take pods", func() error {
		nodes, err := w.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		open := slices.DeleteFunc(nodes.Items, func(n corev1.Node) bool { return len(n.Spec.Taints) > 0 })
		if len(open) != count {
			return fmt.Errorf("%d of %d", len(open), count)
		}
		return nil
	})
	return w
}

// play runs fake nodes, with informers of their own, until stop is called.
func (w *world) play(count int) (stop func()) {
	w.t.Helper()
	factory := informers.NewSharedInformerFactory(w.Interface, 0)
	nodes, err := fakenodes.New(fakenodes.Config{Client: w.Interface, Informers: factory, Count: count})
	if err != nil {
		w.t.Fatal(err)
	}
	return running(w.t, factory, nodes.Run)
}

func running(t *testing.T, factory informers.SharedInformerFactory, parts ...func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for _, part := range parts {
		group.Go(func() {
			if err := part(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	factory.Start(ctx.Done())
	return func() {
		cancel()
		group.Wait()
		factory.Shutdown()
	}
}

func client(t *testing.T, config *rest.Config) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) eventually(what string, ok func() error) {
	w.t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	w.t.Fatalf("%s: %v", what, err)
}

var template = corev1.PodTemplateSpec{
	ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "a"}},
	Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "any"}}},
}

func (w *world) deployment(replicas int32) {
	w.t.Helper()
	_, err := w.AppsV1().Deployments("default").Create(w.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "d"},
		Spec:       appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.available(replicas)
}

func (w *world) available(replicas int32) {
	w.t.Helper()
	w.eventually("available", func() error {
		d, err := w.AppsV1().Deployments("default").Get(w.t.Context(), "d", metav1.GetOptions{})
		if err == nil && d.Status.AvailableReplicas != replicas {
			err = fmt.Errorf("%d of %d replicas", d.Status.AvailableReplicas, replicas)
		}
		return err
	})
}

func (w *world) pods() []corev1.Pod {
	w.t.Helper()
	list, err := w.CoreV1().Pods("default").List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return list.Items
}

func TestDeployment(t *testing.T) {
	w := start(t, 3)
	w.deployment(12)
	seen := make(map[string]bool)
	used := make(map[string]bool)
	for _, pod := range w.pods() {
		node, err := w.CoreV1().Nodes().Get(t.Context(), pod.Spec.NodeName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ip := netip.MustParseAddr(pod.Status.PodIP)
		if !netip.MustParsePrefix(node.Spec.PodCIDR).Contains(ip) || seen[pod.Status.PodIP] {
			t.Errorf("%s has the address %s, its node the range %s", pod.Name, ip, node.Spec.PodCIDR)
		}
		seen[pod.Status.PodIP], used[node.Name] = true, true
	}
	if len(used) != 3 {
		t.Errorf("pods are on %d of 3 nodes", len(used))
	}
	if _, err := w.AppsV1().Deployments("default").Patch(t.Context(), "d", types.MergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("two pods", func() error {
		if n := len(w.pods()); n != 2 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
}

// Job pods end by themselves, or as they are told, and a Job's finalizers see how.
func TestJobs(t *testing.T) {
	w := start(t, 1)
	for name, annotations := range map[string]map[string]string{
		"good": {fakenodes.RunFor: "10ms"},
		"bad":  {fakenodes.RunFor: "10ms", fakenodes.ExitCode: "3"},
	} {
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.JobSpec{BackoffLimit: ptr.To[int32](0), Template: *template.DeepCopy()}}
		job.Spec.Template.Labels, job.Spec.Template.Annotations = nil, annotations
		job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
		if _, err := w.BatchV1().Jobs("default").Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]batchv1.JobConditionType{"good": batchv1.JobComplete, "bad": batchv1.JobFailed} {
		w.eventually("the job "+name, func() error {
			job, err := w.BatchV1().Jobs("default").Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, c := range job.Status.Conditions {
				if c.Type == want && c.Status == corev1.ConditionTrue {
					return nil
				}
			}
			return fmt.Errorf("%+v", job.Status)
		})
	}
}

// Nodes that start again know their pods and keep their addresses; what happened meanwhile is done.
func TestRestart(t *testing.T) {
	w := start(t, 2)
	w.deployment(4)
	before := make(map[string]string)
	for _, pod := range w.pods() {
		before[pod.Name] = pod.Status.PodIP
	}
	w.restart()
	if _, err := w.AppsV1().Deployments("default").Patch(t.Context(), "d", types.MergePatchType, []byte(`{"spec":{"replicas":8}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.available(8)
	seen := make(map[string]bool)
	for _, pod := range w.pods() {
		if ip, old := before[pod.Name]; old && ip != pod.Status.PodIP {
			t.Errorf("%s had %s, has %s", pod.Name, ip, pod.Status.PodIP)
		}
		if seen[pod.Status.PodIP] {
			t.Errorf("%s is given twice", pod.Status.PodIP)
		}
		seen[pod.Status.PodIP] = true
	}
}

// A node that is deleted stays gone, and pods are placed on others.
func TestDeletedNode(t *testing.T) {
	w := start(t, 2)
	w.deployment(2)
	if err := w.CoreV1().Nodes().Delete(t.Context(), "fake-node-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	had := make(map[string]bool)
	for _, pod := range w.pods() {
		had[pod.Name] = true
	}
	if _, err := w.AppsV1().Deployments("default").Patch(t.Context(), "d", types.MergePatchType, []byte(`{"spec":{"replicas":5}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the new pods run on the other node", func() error {
		running := 0
		for _, pod := range w.pods() {
			if !had[pod.Name] && pod.Spec.NodeName == "fake-node-2" && pod.Status.Phase == corev1.PodRunning {
				running++
			}
		}
		if running < 3 {
			return fmt.Errorf("%d do", running)
		}
		return nil
	})
	if _, err := w.CoreV1().Nodes().Get(t.Context(), "fake-node-1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get the deleted node: %v", err)
	}
}
