package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func (w *world) deployment(name, image string, replicas int32) *appsv1.Deployment {
	w.t.Helper()
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector(name), Template: template(name, image)},
	}
	d, err := w.AppsV1().Deployments(w.namespace).Create(w.t.Context(), d, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) patchDeployment(name, patch string) {
	w.t.Helper()
	_, err := w.AppsV1().Deployments(w.namespace).Patch(w.t.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
}

// rolledOut waits until a deployment is complete.
func (w *world) rolledOut(name string) *appsv1.Deployment {
	w.t.Helper()
	var d *appsv1.Deployment
	w.eventually("rollout of "+name, func() (err error) {
		d, err = w.AppsV1().Deployments(w.namespace).Get(w.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s, want := d.Status, *d.Spec.Replicas
		if s.ObservedGeneration < d.Generation || s.Replicas != want || s.UpdatedReplicas != want || s.AvailableReplicas != want {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	return d
}

// sizes returns the replicas of a deployment's sets by image.
func (w *world) sizes(app string) map[string]int32 {
	w.t.Helper()
	list, err := w.AppsV1().ReplicaSets(w.namespace).List(w.t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		w.t.Fatal(err)
	}
	sizes := map[string]int32{}
	for _, set := range list.Items {
		sizes[set.Spec.Template.Spec.Containers[0].Image] = *set.Spec.Replicas
	}
	return sizes
}

func TestDeploymentRollsOutAndBack(t *testing.T) {
	w := start(t)
	w.deployment("web", "one", 3)
	d := w.rolledOut("web")
	if got := d.Annotations["deployment.kubernetes.io/revision"]; got != "1" {
		t.Errorf("revision: got %q, want 1", got)
	}
	w.patchDeployment("web", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"two"}]}}}}`)
	w.rolledOut("web")
	if got, want := w.sizes("web"), (map[string]int32{"one": 0, "two": 3}); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("sizes: got %v, want %v", got, want)
	}
	w.patchDeployment("web", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"one"}]}}}}`)
	d = w.rolledOut("web")
	if got := d.Annotations["deployment.kubernetes.io/revision"]; got != "3" {
		t.Errorf("revision after going back: got %q, want 3", got)
	}
	for _, pod := range w.pods("app=web") {
		if pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey] == "" {
			t.Errorf("pod %s has no template hash", pod.Name)
		}
	}
	w.eventually("the condition of a finished rollout", func() error {
		d, err := w.AppsV1().Deployments(w.namespace).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range d.Status.Conditions {
			if c.Type == appsv1.DeploymentProgressing && c.Reason == "NewReplicaSetAvailable" && strings.HasSuffix(c.Message, "has successfully progressed.") {
				return nil
			}
		}
		return fmt.Errorf("conditions %+v", d.Status.Conditions)
	})
}

func TestDeploymentScalesInProportion(t *testing.T) {
	w := start(t)
	w.deployment("web", "one", 10)
	w.patchDeployment("web", `{"spec":{"strategy":{"rollingUpdate":{"maxSurge":3,"maxUnavailable":2}}}}`)
	w.rolledOut("web")
	w.patchDeployment("web", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"stuck"}]}}}}`)
	expect := func(want map[string]int32) {
		t.Helper()
		w.eventually("sizes", func() error {
			if got := w.sizes("web"); fmt.Sprint(got) != fmt.Sprint(want) {
				return fmt.Errorf("got %v, want %v", got, want)
			}
			return nil
		})
	}
	expect(map[string]int32{"one": 8, "stuck": 5})
	w.patchDeployment("web", `{"spec":{"replicas":30}}`)
	expect(map[string]int32{"one": 20, "stuck": 13})
}

func TestDeploymentRecreatesOneAfterTheOther(t *testing.T) {
	w := start(t)
	w.deployment("web", "one", 2)
	w.patchDeployment("web", `{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"},"template":{"spec":{"containers":[{"name":"c","image":"two"}]}}}}`)
	w.rolledOut("web")
	oldest := map[string]bool{}
	for _, pod := range w.pods("app=web") {
		oldest[pod.Spec.Containers[0].Image] = true
	}
	if !oldest["two"] || oldest["one"] {
		t.Errorf("images: got %v, want only two", oldest)
	}
}

func TestReplicaSetAdoptsAndReleases(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "orphan", Labels: map[string]string{"app": "web"}}, Spec: template("web", "x").Spec}
	if _, err := w.CoreV1().Pods(w.namespace).Create(ctx, orphan, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the orphan to run, which the controllers see too", func() error {
		if pods := w.pods("app=web"); pods[0].Status.Phase != corev1.PodRunning {
			return fmt.Errorf("phase %s", pods[0].Status.Phase)
		}
		return nil
	})
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.ReplicaSetSpec{Replicas: ptr(int32(1)), Selector: selector("web"), Template: template("web", "x")},
	}
	if _, err := w.AppsV1().ReplicaSets(w.namespace).Create(ctx, set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	owned := func(want bool) func() error {
		return func() error {
			pod, err := w.CoreV1().Pods(w.namespace).Get(ctx, "orphan", metav1.GetOptions{})
			if err == nil && (metav1.GetControllerOf(pod) != nil) != want {
				err = fmt.Errorf("owners %v", pod.OwnerReferences)
			}
			return err
		}
	}
	w.eventually("adoption", owned(true))
	if n := len(w.pods("app=web")); n != 1 {
		t.Errorf("pods: got %d, want the adopted one only", n)
	}
	if _, err := w.CoreV1().Pods(w.namespace).Patch(ctx, "orphan", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"app":"other"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("release", owned(false))
	w.eventually("a pod in its place", func() error {
		if n := len(w.pods("app=web")); n != 1 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
}

func TestReplicaSetSaysThatQuotaForbids(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	limit := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "limit"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("2")}}}
	if _, err := w.CoreV1().ResourceQuotas(w.namespace).Create(ctx, limit, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the quota's status", func() error {
		q, err := w.CoreV1().ResourceQuotas(w.namespace).Get(ctx, "limit", metav1.GetOptions{})
		if err == nil && q.Status.Used == nil {
			err = fmt.Errorf("no status")
		}
		return err
	})
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.ReplicaSetSpec{Replicas: ptr(int32(3)), Selector: selector("web"), Template: template("web", "x")},
	}
	sets := w.AppsV1().ReplicaSets(w.namespace)
	if _, err := sets.Create(ctx, set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	failing := func(want bool) func() error {
		return func() error {
			set, err := sets.Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				return err
			}
			has := slices.ContainsFunc(set.Status.Conditions, func(c appsv1.ReplicaSetCondition) bool {
				return c.Type == appsv1.ReplicaSetReplicaFailure && c.Reason == "FailedCreate"
			})
			if has != want {
				return fmt.Errorf("conditions %+v", set.Status.Conditions)
			}
			return nil
		}
	}
	w.eventually("ReplicaFailure", failing(true))
	if _, err := sets.Patch(ctx, "web", types.MergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("no ReplicaFailure", failing(false))
}

func TestReplicationControllerRestoresItsStatus(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	rcs := w.CoreV1().ReplicationControllers(w.namespace)
	rc := &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ReplicationControllerSpec{Replicas: ptr(int32(2)), Selector: map[string]string{"app": "web"}, Template: ptr(template("web", "x"))},
	}
	if _, err := rcs.Create(ctx, rc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ready := func() error {
		rc, err := rcs.Get(ctx, "web", metav1.GetOptions{})
		if err == nil && rc.Status.ReadyReplicas != 2 {
			err = fmt.Errorf("status %+v", rc.Status)
		}
		return err
	}
	w.eventually("two ready replicas", ready)
	if _, err := rcs.Patch(ctx, "web", types.MergePatchType, []byte(`{"status":{"readyReplicas":0,"availableReplicas":0}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	w.eventually("the status put right", ready)
}

func TestDaemonSetUpdatesNodeByNode(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	sets := w.AppsV1().DaemonSets(w.namespace)
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: appsv1.DaemonSetSpec{Selector: selector("agent"), Template: template("agent", "one")}}
	if _, err := sets.Create(ctx, set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	updated := func() error {
		set, err := sets.Get(ctx, "agent", metav1.GetOptions{})
		if s := set.Status; err == nil && (s.ObservedGeneration != set.Generation || s.UpdatedNumberScheduled != 2 || s.NumberAvailable != 2) {
			err = fmt.Errorf("status %+v", s)
		}
		return err
	}
	w.eventually("a pod on each node", updated)
	on := map[string]int{}
	for _, pod := range w.pods("app=agent") {
		on[pod.Spec.NodeName]++
	}
	if fmt.Sprint(on) != fmt.Sprint(map[string]int{"n1": 1, "n2": 1}) {
		t.Errorf("pods by node: got %v", on)
	}
	if _, err := sets.Patch(ctx, "agent", types.StrategicMergePatchType, []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"two"}]}}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the update", updated)
	revisions, err := w.AppsV1().ControllerRevisions(w.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=agent"})
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int64
	for _, r := range revisions.Items {
		numbers = append(numbers, r.Revision)
	}
	slices.Sort(numbers)
	if !slices.Equal(numbers, []int64{1, 2}) {
		t.Errorf("revisions: got %v, want 1 and 2", numbers)
	}

	pod := w.pods("app=agent")[0]
	pod.Status.Phase, pod.ResourceVersion = corev1.PodFailed, ""
	if _, err := w.CoreV1().Pods(w.namespace).UpdateStatus(ctx, &pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("another pod in the place of one that failed", func() error {
		if _, err := w.CoreV1().Pods(w.namespace).Get(ctx, pod.Name, metav1.GetOptions{}); gone(err) != nil {
			return gone(err)
		}
		return updated()
	})
}

func TestStatefulSetKeepsOrder(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	sets := w.AppsV1().StatefulSets(w.namespace)
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{
		Replicas: ptr(int32(3)), ServiceName: "db", Selector: selector("db"), Template: template("db", "one"),
	}}
	if _, err := sets.Create(ctx, set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	updated := func(replicas int32) func() error {
		return func() error {
			set, err := sets.Get(ctx, "db", metav1.GetOptions{})
			s := set.Status
			if err == nil && (s.ObservedGeneration != set.Generation || s.UpdatedReplicas != replicas || s.ReadyReplicas != replicas || s.Replicas != replicas || s.CurrentRevision != s.UpdateRevision) {
				err = fmt.Errorf("status %+v", s)
			}
			return err
		}
	}
	w.eventually("three pods", updated(3))
	pods := w.pods("app=db")
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.ResourceVersion, b.ResourceVersion) })
	if _, err := sets.Patch(ctx, "db", types.StrategicMergePatchType, []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"two"}]}}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the update", updated(3))
	if _, err := sets.Patch(ctx, "db", types.MergePatchType, []byte(`{"spec":{"replicas":1}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("one pod", updated(1))
	if pods := w.pods("app=db"); len(pods) != 1 || pods[0].Name != "db-0" || pods[0].Spec.Containers[0].Image != "two" {
		t.Errorf("pods: got %d, want db-0 with image two", len(pods))
	}
}

// job creates a job with defaults for what a test does not care about.
func (w *world) job(name, image string, change func(*batchv1.JobSpec)) {
	w.t.Helper()
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}}
	job.Spec.Template.Spec = template(name, image).Spec
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	change(&job.Spec)
	if _, err := w.BatchV1().Jobs(w.namespace).Create(w.t.Context(), job, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// released checks that no pod of a job is held any more.
func (w *world) released(job string) error {
	for _, pod := range w.pods("job-name=" + job) {
		if len(pod.Finalizers) > 0 {
			return fmt.Errorf("%s has %v", pod.Name, pod.Finalizers)
		}
	}
	return nil
}

func TestJobEnds(t *testing.T) {
	w := start(t)
	indexed := func(s *batchv1.JobSpec) {
		s.CompletionMode = ptr(batchv1.IndexedCompletion)
		s.Completions, s.Parallelism = ptr(int32(4)), ptr(int32(4))
	}
	for _, test := range []struct {
		name, image                 string
		change                      func(*batchv1.JobSpec)
		condition, reason           string
		succeeded, failed           int32
		completedIndexes, lostNames string
	}{
		{name: "completes", image: "ok", change: func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = ptr(int32(5)), ptr(int32(2)) },
			condition: "Complete", reason: "CompletionsReached", succeeded: 5},
		{name: "completes-indexed", image: "ok", change: indexed,
			condition: "Complete", reason: "CompletionsReached", succeeded: 4, completedIndexes: "0-3"},
		{name: "fails", image: "fail", change: func(s *batchv1.JobSpec) { s.BackoffLimit = ptr(int32(0)) },
			condition: "Failed", reason: "BackoffLimitExceeded", failed: 1},
		{name: "fails-by-policy", image: "fail", change: func(s *batchv1.JobSpec) {
			s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action:      batchv1.PodFailurePolicyActionFailJob,
				OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{3}},
			}}}
		}, condition: "Failed", reason: "PodFailurePolicy", failed: 1},
		{name: "fails-by-index", image: "fail", change: func(s *batchv1.JobSpec) { indexed(s); s.BackoffLimitPerIndex = ptr(int32(0)) },
			condition: "Failed", reason: "FailedIndexes", failed: 4, lostNames: "0-3"},
		{name: "fails-too-many-indexes", image: "fail", change: func(s *batchv1.JobSpec) {
			indexed(s)
			s.Parallelism = ptr(int32(1))
			s.BackoffLimitPerIndex, s.MaxFailedIndexes = ptr(int32(0)), ptr(int32(0))
		}, condition: "Failed", reason: "MaxFailedIndexesExceeded", failed: 1, lostNames: "0"},
		{name: "takes-too-long", image: "runs", change: func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptr(int64(1)) },
			condition: "Failed", reason: "DeadlineExceeded", failed: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := &world{Interface: w.Interface, t: t, namespace: w.namespace}
			w.job(test.name, test.image, test.change)
			var status batchv1.JobStatus
			w.eventually("the end of the job", func() error {
				job, err := w.BatchV1().Jobs(w.namespace).Get(t.Context(), test.name, metav1.GetOptions{})
				if err != nil {
					return err
				}
				status = job.Status
				for _, c := range status.Conditions {
					if string(c.Type) == test.condition && c.Status == corev1.ConditionTrue {
						if c.Reason != test.reason {
							t.Fatalf("reason: got %s, want %s", c.Reason, test.reason)
						}
						return nil
					}
				}
				return fmt.Errorf("status %+v", status)
			})
			if status.Succeeded != test.succeeded || status.Failed != test.failed {
				t.Errorf("got %d succeeded and %d failed, want %d and %d", status.Succeeded, status.Failed, test.succeeded, test.failed)
			}
			if status.CompletedIndexes != test.completedIndexes {
				t.Errorf("completed indexes: got %q, want %q", status.CompletedIndexes, test.completedIndexes)
			}
			if test.lostNames != "" && (status.FailedIndexes == nil || *status.FailedIndexes != test.lostNames) {
				t.Errorf("failed indexes: got %v, want %q", status.FailedIndexes, test.lostNames)
			}
			if status.Active != 0 || status.Ready == nil || *status.Ready != 0 || status.Terminating == nil || *status.Terminating != 0 {
				t.Errorf("active, ready, terminating: got %d, %v, %v, want 0", status.Active, status.Ready, status.Terminating)
			}
			w.eventually("pods without the finalizer", func() error { return w.released(test.name) })
		})
	}
}

func TestRestartedControllersCountRight(t *testing.T) {
	w := start(t)
	w.deployment("web", "x", 20)
	w.job("sum", "ok", func(s *batchv1.JobSpec) {
		s.CompletionMode = ptr(batchv1.IndexedCompletion)
		s.Completions, s.Parallelism = ptr(int32(20)), ptr(int32(5))
	})
	for range 4 {
		time.Sleep(50 * time.Millisecond) // any moment will do
		w.restart()
	}
	w.rolledOut("web")
	var job *batchv1.Job
	w.eventually("the end of the job", func() (err error) {
		job, err = w.BatchV1().Jobs(w.namespace).Get(t.Context(), "sum", metav1.GetOptions{})
		if err == nil && job.Status.CompletionTime == nil {
			err = fmt.Errorf("status %+v", job.Status)
		}
		return err
	})
	if s := job.Status; s.Succeeded != 20 || s.Failed != 0 || s.CompletedIndexes != "0-19" {
		t.Errorf("got %d succeeded (%s) and %d failed, want 20 (0-19) and 0", s.Succeeded, s.CompletedIndexes, s.Failed)
	}
	w.eventually("pods without the finalizer", func() error { return w.released("sum") })
}

func TestJobIsSuspendedAndResumed(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	jobs := w.BatchV1().Jobs(w.namespace)
	w.job("nap", "runs", func(s *batchv1.JobSpec) { s.Parallelism = ptr(int32(2)) })
	active := func(want int32) func() error {
		return func() error {
			job, err := jobs.Get(ctx, "nap", metav1.GetOptions{})
			if err == nil && (job.Status.Active != want || len(w.pods("job-name=nap")) != int(want)) {
				err = fmt.Errorf("status %+v", job.Status)
			}
			return err
		}
	}
	w.eventually("two active pods", active(2))
	for _, step := range []struct {
		suspend bool
		active  int32
	}{{true, 0}, {false, 2}} {
		if _, err := jobs.Patch(ctx, "nap", types.MergePatchType, fmt.Appendf(nil, `{"spec":{"suspend":%v}}`, step.suspend), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		w.eventually(fmt.Sprintf("suspend %v", step.suspend), active(step.active))
	}
	job, err := jobs.Get(ctx, "nap", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if job.Status.Failed != 0 {
		t.Errorf("failed: got %d, want 0: suspension is no failure", job.Status.Failed)
	}
}

func TestExpiredJobIsDeleted(t *testing.T) {
	w := start(t)
	w.job("brief", "ok", func(s *batchv1.JobSpec) { s.TTLSecondsAfterFinished = ptr(int32(0)) })
	w.eventually("the end of the job", func() error {
		_, err := w.BatchV1().Jobs(w.namespace).Get(t.Context(), "brief", metav1.GetOptions{})
		return gone(err)
	})
}

func TestDeploymentRespectsUnavailability(t *testing.T) {
	w := start(t)
	d := w.deployment("web", "one", 4)
	w.patchDeployment(d.Name, `{"spec":{"strategy":{"rollingUpdate":{"maxSurge":0,"maxUnavailable":1}}}}`)
	w.rolledOut("web")
	w.patchDeployment("web", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"stuck"}]}}}}`)
	want := map[string]int32{"one": 3, "stuck": 1}
	w.eventually("the rollout to stop at one", func() error {
		if got := w.sizes("web"); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("got %v, want %v", got, want)
		}
		return nil
	})
	if got := d.Spec.Strategy.RollingUpdate.MaxSurge; got == nil || *got != intstr.FromString("25%") {
		t.Errorf("default surge: got %v, want 25%%", got)
	}
}

func TestDaemonSetKeepsRevisionsMadeByHand(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	sets, revisions := w.AppsV1().DaemonSets(w.namespace), w.AppsV1().ControllerRevisions(w.namespace)
	run := func(name string) {
		t.Helper()
		set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DaemonSetSpec{Selector: selector(name), Template: template(name, "one")}}
		if _, err := sets.Create(ctx, set, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.eventually("two available pods", func() error {
			set, err := sets.Get(ctx, name, metav1.GetOptions{})
			if err == nil && set.Status.NumberAvailable != 2 {
				err = fmt.Errorf("status %+v", set.Status)
			}
			return err
		})
	}
	run("agent")
	run("later") // by then the loop has looked at what it wrote about the first, and leaves that alone
	list := func() []appsv1.ControllerRevision {
		t.Helper()
		list, err := revisions.List(ctx, metav1.ListOptions{LabelSelector: "app=agent"})
		if err != nil {
			t.Fatal(err)
		}
		return list.Items
	}
	first := list()[0]
	second := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{Name: "agent-hand", Labels: map[string]string{"app": "agent", appsv1.DefaultDaemonSetUniqueLabelKey: "hand"}, OwnerReferences: first.OwnerReferences},
		Data:       first.Data, Revision: 2,
	}
	if _, err := revisions.Create(ctx, second, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	if got := list(); len(got) != 2 {
		t.Fatalf("got %d revisions, want both", len(got))
	}
	if err := revisions.Delete(ctx, first.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	if got := list(); len(got) != 1 || got[0].Name != "agent-hand" {
		t.Errorf("got %d revisions, want the second to be used", len(got))
	}
	if _, err := sets.Patch(ctx, "agent", types.StrategicMergePatchType, []byte(`{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":1}}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("a revision numbered 3", func() error {
		for _, r := range list() {
			if r.Revision == 3 {
				return nil
			}
		}
		return fmt.Errorf("%d revisions", len(list()))
	})
}

// TestSetThatKeepsAllItsHistory has a limit that only StatefulSets may have: negative, which means none.
func TestSetThatKeepsAllItsHistory(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	sets := w.AppsV1().StatefulSets(w.namespace)
	if _, err := sets.Create(ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: appsv1.StatefulSetSpec{
		Replicas: ptr(int32(1)), RevisionHistoryLimit: ptr(int32(-1)), Selector: selector("s"), Template: template("s", "v0"),
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for i, image := range []string{"v0", "v1", "v2"} {
		if _, err := sets.Patch(ctx, "s", types.StrategicMergePatchType, fmt.Appendf(nil, `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":%q}]}}}}`, image), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		w.eventually("the rollout of "+image, func() error {
			set, err := sets.Get(ctx, "s", metav1.GetOptions{})
			if err == nil && (set.Status.ObservedGeneration != set.Generation || set.Status.CurrentRevision != set.Status.UpdateRevision || set.Status.ReadyReplicas != 1) {
				err = fmt.Errorf("generation %d, status %+v", set.Generation, set.Status)
			}
			return err
		})
		list, err := w.AppsV1().ControllerRevisions(w.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Items) != i+1 {
			t.Errorf("after %s: got %d revisions, want %d", image, len(list.Items), i+1)
		}
	}
}

func TestCronJobWhoseTimeNeverComes(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	job := template("c", "ok")
	job.Spec.RestartPolicy = corev1.RestartPolicyNever
	if _, err := w.BatchV1().CronJobs(w.namespace).Create(ctx, &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: batchv1.CronJobSpec{
		Schedule: "0 0 31 2 *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: job}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("a warning", func() error {
		events, err := w.CoreV1().Events(w.namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=InvalidSchedule,type=Warning,involvedObject.name=c"})
		if err != nil {
			return err
		}
		const want = "invalid schedule: 0 0 31 2 * : time difference between two schedules is less than 1 second"
		if len(events.Items) != 1 || events.Items[0].Message != want {
			return fmt.Errorf("got %d events %v, want %q", len(events.Items), events.Items, want)
		}
		return nil
	})
}
