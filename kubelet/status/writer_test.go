package status

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kuberuntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestWriterWritesTheNewestUntilItIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", UID: "u", ResourceVersion: "1"}}
		client := fake.NewClientset(pod)
		var patches, failures atomic.Int32
		client.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, kuberuntime.Object, error) {
			patches.Add(1)
			if failures.Add(1) <= 2 {
				return true, nil, apierrors.NewInternalError(context.DeadlineExceeded)
			}
			return false, nil, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		w := NewWriter(client, nil)
		done := make(chan struct{})
		go func() { defer close(done); _ = w.Run(ctx) }()

		w.Set(pod, v1.PodStatus{Phase: v1.PodPending})
		w.Set(pod, v1.PodStatus{Phase: v1.PodRunning})
		if w.Settled("u") {
			t.Error("settled before anything was written")
		}
		time.Sleep(5 * time.Second)
		if !w.Settled("u") {
			t.Error("not settled after the API took the status")
		}
		got, err := client.CoreV1().Pods("n").Get(ctx, "p", metav1.GetOptions{})
		if err != nil || got.Status.Phase != v1.PodRunning {
			t.Errorf("phase in the API is %q (%v), want Running", got.Status.Phase, err)
		}
		before := patches.Load()
		w.Set(got, v1.PodStatus{Phase: v1.PodRunning})
		time.Sleep(5 * time.Second)
		if again := patches.Load() - before; again != 0 {
			t.Errorf("an unchanged status was written %d times", again)
		}
		cancel()
		<-done
	})
}
