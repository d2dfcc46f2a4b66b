package policy

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// silent is a Counter that has heard of nothing, as one whose watches are behind.
type silent struct{}

func (silent) Count(schema.GroupResource, string) (int, bool)   { return 0, false }
func (silent) OnCount(func(schema.GroupResource, string, bool)) {}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "ns", Name: name} }

func every(names []corev1.ResourceName, n int64) corev1.ResourceList {
	list := corev1.ResourceList{}
	for _, name := range names {
		list[name] = *resource.NewQuantity(n, resource.DecimalSI)
	}
	return list
}

// TestQuotaHearsOfWhatItCounts: the objects that have informers of their own wake their quota when these know of them, whatever
// the Counter knows, and what the API server charged in vain is given back.
func TestQuotaHearsOfWhatItCounts(t *testing.T) {
	names := []corev1.ResourceName{"pods", "services", "persistentvolumeclaims", "count/resourceclaims.resource.k8s.io"}
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		var version atomic.Int64
		client.PrependReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
			if a, writes := action.(interface{ GetObject() runtime.Object }); writes {
				a.GetObject().(metav1.Object).SetResourceVersion(strconv.FormatInt(version.Add(1), 10))
			}
			return false, nil, nil
		})
		factory := informers.NewSharedInformerFactory(client, 0)
		loop := Quota(Deps{Client: client, Informers: factory, Workers: 1}, silent{})
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := loop.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		factory.Start(ctx.Done())
		time.Sleep(time.Second) // the fake server tells nobody of what was made before
		must := func(_ any, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		quotas := client.CoreV1().ResourceQuotas("ns")
		used := func(when string, want int64) {
			t.Helper()
			time.Sleep(2 * settle)
			q, err := quotas.Get(ctx, "q", metav1.GetOptions{})
			must(q, err)
			for _, name := range names {
				if got, ok := q.Status.Used[name]; !ok || got.Value() != want {
					t.Errorf("%s: %s: %s are used, want %d", when, name, got.String(), want)
				}
			}
		}
		must(quotas.Create(ctx, &corev1.ResourceQuota{ObjectMeta: named("q"), Spec: corev1.ResourceQuotaSpec{Hard: every(names, 5)}}, metav1.CreateOptions{}))
		used("at the beginning", 0)
		must(client.CoreV1().Pods("ns").Create(ctx, &corev1.Pod{ObjectMeta: named("o")}, metav1.CreateOptions{}))
		must(client.CoreV1().Services("ns").Create(ctx, &corev1.Service{ObjectMeta: named("o")}, metav1.CreateOptions{}))
		must(client.CoreV1().PersistentVolumeClaims("ns").Create(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: named("o")}, metav1.CreateOptions{}))
		must(client.ResourceV1().ResourceClaims("ns").Create(ctx, &resourcev1.ResourceClaim{ObjectMeta: named("o")}, metav1.CreateOptions{}))
		used("one of each", 1)
		must(nil, client.CoreV1().Pods("ns").Delete(ctx, "o", metav1.DeleteOptions{}))
		must(nil, client.CoreV1().Services("ns").Delete(ctx, "o", metav1.DeleteOptions{}))
		must(nil, client.CoreV1().PersistentVolumeClaims("ns").Delete(ctx, "o", metav1.DeleteOptions{}))
		must(nil, client.ResourceV1().ResourceClaims("ns").Delete(ctx, "o", metav1.DeleteOptions{}))
		used("all deleted", 0)
		q, err := quotas.Get(ctx, "q", metav1.GetOptions{})
		must(q, err)
		q = q.DeepCopy()
		q.Status.Used = every(names, 3)
		must(quotas.UpdateStatus(ctx, q, metav1.UpdateOptions{}))
		used("charged for what was never stored", 0)
		stop()
		running.Wait()
		factory.Shutdown()
		time.Sleep(time.Hour) // what is waiting for a time notices then that it is over
	})
}
