package scheduler

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/scheduler/plugin"
)

// TestAPodAtWhichItPanics must cost nobody else anything, and be tried again.
func TestAPodAtWhichItPanics(t *testing.T) {
	ctx := t.Context()
	client := kubernetes.NewForConfigOrDie(apiservertest.Config(apiservertest.Start(t, nil), "admin"))
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ServiceAccounts("ns").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	made, err := client.CoreV1().Pods("ns").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i"}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Client: client, Informers: informers.NewSharedInformerFactory(client, 0)})
	if err != nil {
		t.Fatal(err)
	}
	pod := plugin.NewPod(made)
	s.queue.add(pod, time.Now())
	taken, moved, ok := s.queue.next(ctx)
	if !ok {
		t.Fatal("got no pod to place")
	}
	s.attempt(ctx, taken, moved, func() {
		s.state.assume(taken, "n")
		panic("a rule cannot digest it")
	})
	if s.state.counts(pod.UID) {
		t.Error("the pod still takes room on its node")
	}
	again, _, ok := s.queue.next(ctx)
	if !ok || again.UID != pod.UID {
		t.Errorf("got %v, want the pod again", again)
	}
	made, err = client.CoreV1().Pods("ns").Get(ctx, "p", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c := made.Status.Conditions; len(c) != 1 || c[0].Reason != corev1.PodReasonSchedulerError || c[0].Message != "scheduler: panic: a rule cannot digest it" {
		t.Errorf("got conditions %+v", c)
	}
}
