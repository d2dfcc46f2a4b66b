package skifftest_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/skifftest"
)

func TestADayOfACronJobPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := skifftest.Start(t).Client()
		spec := podSpec()
		spec.RestartPolicy = corev1.RestartPolicyOnFailure
		cron := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "hourly"}, Spec: batchv1.CronJobSpec{
			Schedule: "30 * * * *", SuccessfulJobsHistoryLimit: ptr.To[int32](100),
			JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: spec}}},
		}}
		if _, err := api.BatchV1().CronJobs("default").Create(t.Context(), cron, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		jobs, err := api.BatchV1().Jobs("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		complete := 0
		for _, job := range jobs.Items {
			complete += int(job.Status.Succeeded)
		}
		if complete != 24 {
			t.Errorf("%d of %d Jobs are complete, want 24", complete, len(jobs.Items))
		}
	})
}

func TestAJobBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		api := skifftest.Start(t, skifftest.Pods(func(*corev1.Pod) skifftest.Behaviour {
			return skifftest.Behaviour{RunFor: time.Second, ExitCode: 1}
		})).Client()
		spec := podSpec()
		spec.RestartPolicy = corev1.RestartPolicyNever
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "failing"}, Spec: batchv1.JobSpec{BackoffLimit: ptr.To[int32](4), Template: corev1.PodTemplateSpec{Spec: spec}}}
		if _, err := api.BatchV1().Jobs("default").Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		job, err := api.BatchV1().Jobs("default").Get(t.Context(), "failing", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if job.Status.Failed != 5 || len(job.Status.Conditions) == 0 {
			t.Fatalf("after ten minutes: %+v", job.Status)
		}
		// 10, 20, 40 and 80 seconds are between the pods.
		last := job.Status.Conditions[len(job.Status.Conditions)-1].LastTransitionTime.Sub(begun)
		if last < 150*time.Second || last > 170*time.Second {
			t.Errorf("it failed after %v", last)
		}
	})
}

func TestALeaseAndAnEventEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := skifftest.Start(t, skifftest.WithoutControllers(), skifftest.WithoutScheduler(), skifftest.Nodes(0)).Client()
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "leader"}, Spec: coordinationv1.LeaseSpec{
			HolderIdentity: ptr.To("one"), LeaseDurationSeconds: ptr.To[int32](15), RenewTime: ptr.To(metav1.NewMicroTime(time.Now())), AcquireTime: ptr.To(metav1.NewMicroTime(time.Now())),
		}}
		if _, err := api.CoordinationV1().Leases("default").Create(t.Context(), lease, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "told"}, InvolvedObject: corev1.ObjectReference{Namespace: "default"}}
		if _, err := api.CoreV1().Events("default").Create(t.Context(), event, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		if _, err := api.CoreV1().Events("default").Get(t.Context(), "told", metav1.GetOptions{}); err != nil {
			t.Errorf("after 59 minutes: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := api.CoreV1().Events("default").Get(t.Context(), "told", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("after 61 minutes: %v", err)
		}
		held, err := api.CoordinationV1().Leases("default").Get(t.Context(), "leader", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if age := time.Since(held.Spec.RenewTime.Time); age < time.Hour {
			t.Errorf("the lease is %v old", age)
		}
	})
}

func TestANodeThatIsSilentIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := skifftest.Start(t)
		fork := c.Snapshot().Start(t, skifftest.Nodes(0)) // nobody plays its node
		time.Sleep(2 * time.Minute)
		node, err := fork.Client().CoreV1().Nodes().Get(t.Context(), "fake-node-1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if status := fmt.Sprint(node.Spec.Taints); len(node.Spec.Taints) == 0 {
			t.Errorf("the node has taints %s", status)
		}
	})
}

// TestLittleHappensByTheClock: a day should take as long as what a test has happen in it. In an hour no watch is told that
// nothing has changed, and a node says seldom that it lives.
func TestLittleHappensByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := skifftest.Start(t, skifftest.WithoutControllers(), skifftest.WithoutScheduler())
		options := metav1.ListOptions{AllowWatchBookmarks: true, TimeoutSeconds: ptr.To[int64](7200)}
		quiet, err := c.Client().CoreV1().ConfigMaps("default").Watch(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		lives, err := c.Client().CoordinationV1().Leases("kube-node-lease").Watch(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		var counting sync.WaitGroup
		told, renewed := 0, 0
		counting.Go(func() { told = count(quiet, watch.Bookmark) })
		counting.Go(func() { renewed = count(lives, watch.Modified) })
		time.Sleep(59 * time.Minute)
		quiet.Stop()
		lives.Stop()
		counting.Wait()
		if told > 1 || renewed < 100 || renewed > 150 { // one says that all objects have come
			t.Errorf("%d bookmarks came, and %d renewals of a lease", told, renewed)
		}
	})
}

// TestControllersAskLittleByTheClock: what nothing happens to is neither asked for nor watched anew all the time.
func TestControllersAskLittleByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := skifftest.Start(t, skifftest.Nodes(0))
		time.Sleep(time.Minute) // until all controllers have begun
		before := served(t, c)
		time.Sleep(time.Hour)
		if n := served(t, c) - before; n > 20 {
			t.Errorf("%d requests came in a quiet hour", n)
		}
	})
}

// served is how many requests the server has answered, and watches that have ended.
func served(t *testing.T, c *skifftest.Cluster) (n int) {
	t.Helper()
	text, err := c.Client().CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "apiserver_request_total{") {
			continue
		}
		fields := strings.Fields(line)
		count, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			t.Fatal(err)
		}
		n += int(count)
	}
	if n == 0 {
		t.Fatal("the server counts no requests")
	}
	return n
}

// count is how many events of a type a watch has, to its end.
func count(w watch.Interface, kind watch.EventType) (n int) {
	for e := range w.ResultChan() {
		if e.Type == kind {
			n++
		}
	}
	return n
}
