package workloads

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

// podOption changes a pod of a test.
type podOption func(*corev1.Pod)

func newPod(name string, options ...podOption) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Namespace: "ns"}}
	for _, o := range options {
		o(pod)
	}
	return pod
}

func phase(p corev1.PodPhase) podOption { return func(pod *corev1.Pod) { pod.Status.Phase = p } }
func onNode(name string) podOption      { return func(pod *corev1.Pod) { pod.Spec.NodeName = name } }
func label(k, v string) podOption {
	return func(pod *corev1.Pod) { pod.Labels = withLabel(pod.Labels, k, v) }
}
func annotation(k, v string) podOption {
	return func(pod *corev1.Pod) { pod.Annotations = withLabel(pod.Annotations, k, v) }
}
func created(ago time.Duration) podOption {
	return func(pod *corev1.Pod) { pod.CreationTimestamp = metav1.NewTime(now.Add(-ago)) }
}
func deleting(pod *corev1.Pod) { pod.DeletionTimestamp = &metav1.Time{Time: now} }

// readyFor makes a pod running and ready since some time.
func readyFor(d time.Duration) podOption {
	return func(pod *corev1.Pod) {
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-d))}}
	}
}

func names(pods []*corev1.Pod) []string {
	var all []string
	for _, pod := range pods {
		all = append(all, pod.Name)
	}
	return all
}

func TestBondOf(t *testing.T) {
	owner := &metav1.ObjectMeta{Name: "o", UID: "o"}
	going := &metav1.ObjectMeta{Name: "o", UID: "o", DeletionTimestamp: &metav1.Time{Time: now}}
	owned := func(by types.UID) podOption {
		return func(pod *corev1.Pod) { pod.OwnerReferences = []metav1.OwnerReference{{UID: by, Controller: ptr(true)}} }
	}
	matching := label("app", "web")
	for _, test := range []struct {
		name  string
		owner metav1.Object
		child *corev1.Pod
		want  bond
	}{
		{"its own", owner, newPod("p", owned("o"), matching), keep},
		{"its own that matches no more", owner, newPod("p", owned("o")), release},
		{"its own that matches no more, owner going", going, newPod("p", owned("o")), ignore},
		{"another's", owner, newPod("p", owned("x"), matching), ignore},
		{"nobody's", owner, newPod("p", matching), adopt},
		{"nobody's that does not match", owner, newPod("p"), ignore},
		{"nobody's, going", owner, newPod("p", matching, deleting), ignore},
		{"nobody's, owner going", going, newPod("p", matching), ignore},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := bondOf(test.owner, labels.SelectorFromSet(labels.Set{"app": "web"}), test.child); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestInBatches(t *testing.T) {
	for _, test := range []struct {
		n, failFrom, calls, done int
	}{
		{n: 0, failFrom: 99},
		{n: 10, failFrom: 99, calls: 10, done: 10},
		{n: 10, failFrom: 0, calls: 1, done: 0},
		{n: 10, failFrom: 2, calls: 3, done: 2},
		{n: 10, failFrom: 5, calls: 7, done: 5},
	} {
		t.Run(fmt.Sprintf("%d failing from %d", test.n, test.failFrom), func(t *testing.T) {
			calls := make(chan int, 100)
			done, err := inBatches(test.n, func(i int) error {
				calls <- i
				if i >= test.failFrom {
					return errors.New("no")
				}
				return nil
			})
			if len(calls) != test.calls || done != test.done || (err != nil) != (test.calls > test.done) {
				t.Errorf("got %d calls, %d done, error %v, want %d calls, %d done", len(calls), done, err, test.calls, test.done)
			}
		})
	}
}

func TestPodAvailable(t *testing.T) {
	for _, test := range []struct {
		name      string
		pod       *corev1.Pod
		minReady  int32
		available bool
		in        time.Duration
	}{
		{"not ready", newPod("p"), 0, false, 0},
		{"ready", newPod("p", readyFor(0)), 0, true, 0},
		{"ready for long enough", newPod("p", readyFor(10*time.Second)), 10, true, 0},
		{"ready not for long enough", newPod("p", readyFor(4*time.Second)), 10, false, 6 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, in := podAvailable(test.pod, test.minReady, now); got != test.available || in != test.in {
				t.Errorf("got %v in %s, want %v in %s", got, in, test.available, test.in)
			}
		})
	}
}

func TestVictimsOf(t *testing.T) {
	running := phase(corev1.PodRunning)
	for _, test := range []struct {
		name  string
		pods  []*corev1.Pod
		crowd map[string]int
		first string
	}{
		{"without a node", []*corev1.Pod{newPod("a", onNode("n"), running), newPod("b")}, nil, "b"},
		{"pending", []*corev1.Pod{newPod("a", onNode("n"), running), newPod("b", onNode("n"), phase(corev1.PodPending))}, nil, "b"},
		{"not ready", []*corev1.Pod{newPod("a", onNode("n"), readyFor(time.Hour)), newPod("b", onNode("n"), running)}, nil, "b"},
		{"cheaper", []*corev1.Pod{newPod("a", onNode("n"), annotation(podDeletionCost, "5")), newPod("b", onNode("n"), annotation(podDeletionCost, "-5"))}, nil, "b"},
		{"on the crowded node", []*corev1.Pod{newPod("a", onNode("n")), newPod("b", onNode("m"))}, map[string]int{"n": 1, "m": 2}, "b"},
		{"ready for a shorter time", []*corev1.Pod{newPod("a", onNode("n"), readyFor(time.Hour)), newPod("b", onNode("n"), readyFor(time.Second))}, nil, "b"},
		{"younger", []*corev1.Pod{newPod("a", onNode("n"), created(time.Hour)), newPod("b", onNode("n"), created(time.Second))}, nil, "b"},
		{"of about the same age, by UID", []*corev1.Pod{newPod("b", onNode("n"), created(60*time.Second)), newPod("a", onNode("n"), created(61*time.Second))}, nil, "a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := victimsOf(test.pods, test.crowd, 1, now); len(got) != 1 || got[0].Name != test.first {
				t.Errorf("got %v, want %s", names(got), test.first)
			}
		})
	}
	if got := victimsOf([]*corev1.Pod{newPod("a")}, nil, 3, now); len(got) != 1 {
		t.Errorf("more victims than pods: got %v", names(got))
	}
}

func TestReplicaStatus(t *testing.T) {
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Generation: 4}, Spec: appsv1.ReplicaSetSpec{Replicas: ptr(int32(4)), MinReadySeconds: 10}}
	set.Spec.Template.Labels = map[string]string{"app": "web", "tier": "front"}
	pods := []*corev1.Pod{
		newPod("a", label("app", "web"), label("tier", "front"), readyFor(time.Minute)),
		newPod("b", label("app", "web"), readyFor(7*time.Second)),
		newPod("c", label("app", "web")),
	}
	got, ripe := replicaStatus(set, pods, []*corev1.Pod{newPod("d", deleting)}, errors.New("quota"), now)
	if got.Replicas != 3 || got.FullyLabeledReplicas != 1 || got.ReadyReplicas != 2 || got.AvailableReplicas != 1 || *got.TerminatingReplicas != 1 || got.ObservedGeneration != 4 {
		t.Errorf("got %+v", got)
	}
	if ripe != 3*time.Second {
		t.Errorf("next available in %s, want 3s", ripe)
	}
	if len(got.Conditions) != 1 || got.Conditions[0].Reason != "FailedCreate" || got.Conditions[0].Message != "quota" {
		t.Errorf("conditions: got %+v", got.Conditions)
	}
	set.Status = got
	if got, _ := replicaStatus(set, pods, nil, nil, now); len(got.Conditions) != 0 {
		t.Errorf("conditions after success: got %+v", got.Conditions)
	}
}

// set makes a ReplicaSet of a test, with the size noted that the deployment had.
func replicas(name string, age time.Duration, want, available, noted int32) *appsv1.ReplicaSet {
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(now.Add(-age))},
		Spec:       appsv1.ReplicaSetSpec{Replicas: &want},
		Status:     appsv1.ReplicaSetStatus{Replicas: want, ReadyReplicas: available, AvailableReplicas: available},
	}
	set.Spec.Template.Spec.Containers = []corev1.Container{{Image: name}}
	if noted > 0 {
		noteSize(set, rolling(noted, "new", 3, 2))
	}
	return set
}

// rolling makes a Deployment of a test with absolute bounds.
func rolling(want int32, image string, surge, unavailable int) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d", Generation: 1}}
	d.Spec.Replicas = &want
	d.Spec.Template.Spec.Containers = []corev1.Container{{Image: image}}
	d.Spec.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: ptr(intstr.FromInt(surge)), MaxUnavailable: ptr(intstr.FromInt(unavailable))}
	return d
}

func sizes(plan []sizing) string {
	var parts []string
	for _, s := range plan {
		parts = append(parts, fmt.Sprintf("%s:%d", s.set.Name, s.to))
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

func TestPlanRollout(t *testing.T) {
	for _, test := range []struct {
		name         string
		deployment   *appsv1.Deployment
		sets         []*appsv1.ReplicaSet
		grow, shrink string
	}{
		{"start with room for the surge", rolling(10, "new", 3, 2), []*appsv1.ReplicaSet{replicas("old", time.Hour, 10, 10, 0), replicas("new", 0, 0, 0, 0)}, "new:3", "old:8"},
		{"no room", rolling(10, "new", 3, 2), []*appsv1.ReplicaSet{replicas("old", time.Hour, 8, 8, 0), replicas("new", 0, 5, 0, 0)}, "", ""},
		{"new pods available", rolling(10, "new", 3, 2), []*appsv1.ReplicaSet{replicas("old", time.Hour, 8, 8, 0), replicas("new", 0, 5, 3, 0)}, "", "old:5"},
		{"broken old pods go first", rolling(10, "new", 0, 2), []*appsv1.ReplicaSet{replicas("older", 2*time.Hour, 4, 4, 0), replicas("old", time.Hour, 4, 2, 0), replicas("new", 0, 2, 2, 0)}, "", "old:2"},
		{"roll over to a third template", rolling(10, "new", 3, 2), []*appsv1.ReplicaSet{replicas("old", time.Hour, 8, 8, 0), replicas("bad", time.Minute, 5, 0, 0), replicas("new", 0, 0, 0, 0)}, "", "bad:0"},
		{"one by one without surge", rolling(3, "new", 0, 1), []*appsv1.ReplicaSet{replicas("old", time.Hour, 3, 3, 0), replicas("new", 0, 0, 0, 0)}, "", "old:2"},
		{"the deployment shrank", rolling(2, "new", 3, 2), []*appsv1.ReplicaSet{replicas("new", 0, 5, 5, 0)}, "new:2", ""},
		{"done", rolling(3, "new", 3, 2), []*appsv1.ReplicaSet{replicas("old", time.Hour, 0, 0, 0), replicas("new", 0, 3, 3, 0)}, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRollout(test.deployment, test.sets)
			if got := sizes(r.planGrow()); got != test.grow {
				t.Errorf("grow: got %q, want %q", got, test.grow)
			}
			if got := sizes(r.planShrink()); got != test.shrink {
				t.Errorf("shrink: got %q, want %q", got, test.shrink)
			}
		})
	}
}

func TestPlanScale(t *testing.T) {
	for _, test := range []struct {
		name string
		want int32
		sets []*appsv1.ReplicaSet
		plan string
	}{
		{"one active set", 5, []*appsv1.ReplicaSet{replicas("old", time.Hour, 0, 0, 3), replicas("new", 0, 3, 3, 3)}, "new:5"},
		{"none active", 5, []*appsv1.ReplicaSet{replicas("old", time.Hour, 0, 0, 0), replicas("new", 0, 0, 0, 0)}, "new:5"},
		{"none active and no current", 5, []*appsv1.ReplicaSet{replicas("older", 2*time.Hour, 0, 0, 0), replicas("old", time.Hour, 0, 0, 0)}, "old:5"},
		{"up in proportion", 30, []*appsv1.ReplicaSet{replicas("old", time.Hour, 8, 8, 10), replicas("new", 0, 5, 0, 10)}, "new:13 old:20"},
		{"down in proportion", 5, []*appsv1.ReplicaSet{replicas("old", time.Hour, 8, 8, 10), replicas("new", 0, 5, 0, 10)}, "new:3 old:5"},
		{"down to nothing", 0, []*appsv1.ReplicaSet{replicas("old", time.Hour, 8, 8, 10), replicas("new", 0, 5, 0, 10)}, "new:0 old:0"},
		{"the current set is complete", 3, []*appsv1.ReplicaSet{replicas("old", time.Hour, 2, 2, 3), replicas("new", 0, 3, 3, 3)}, "old:0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := sizes(newRollout(rolling(test.want, "new", 3, 2), test.sets).planScale()); got != test.plan {
				t.Errorf("got %q, want %q", got, test.plan)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	percent := func(want int32, surge, unavailable string) *appsv1.Deployment {
		d := rolling(want, "", 0, 0)
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: ptr(intstr.FromString(surge)), MaxUnavailable: ptr(intstr.FromString(unavailable))}
		return d
	}
	for _, test := range []struct {
		name               string
		deployment         *appsv1.Deployment
		surge, unavailable int32
	}{
		{"numbers", rolling(10, "", 3, 2), 3, 2},
		{"surge is rounded up, unavailability down", percent(10, "25%", "25%"), 3, 2},
		{"both nothing", percent(2, "0%", "1%"), 0, 1},
		{"never more than there are", rolling(1, "", 0, 5), 0, 1},
		{"nothing to run", rolling(0, "", 0, 1), 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			if surge, unavailable := bounds(test.deployment); surge != test.surge || unavailable != test.unavailable {
				t.Errorf("got %d and %d, want %d and %d", surge, unavailable, test.surge, test.unavailable)
			}
		})
	}
}

func TestAnnotate(t *testing.T) {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"note": "x", revision: "9", corev1.LastAppliedConfigAnnotation: "{}"}}}
	for _, test := range []struct {
		name    string
		has     map[string]string
		number  int64
		want    map[string]string
		changed bool
	}{
		{"new set", nil, 1, map[string]string{"note": "x", revision: "1"}, true},
		{"nothing to do", map[string]string{"note": "x", revision: "4"}, 3, map[string]string{"note": "x", revision: "4"}, false},
		{"rolled back to", map[string]string{"note": "x", revision: "1", revisionHistory: "0"}, 3, map[string]string{"note": "x", revision: "3", revisionHistory: "0,1"}, true},
		{"a revision that is no number", map[string]string{"note": "x", revision: "one"}, 3, map[string]string{"note": "x", revision: "one"}, false},
		{"a huge revision", map[string]string{"note": "x"}, 3546343826724305833, map[string]string{"note": "x", revision: "3546343826724305833"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Annotations: test.has}}
			if changed := annotate(set, d, test.number); changed != test.changed || fmt.Sprint(set.Annotations) != fmt.Sprint(test.want) {
				t.Errorf("got %v, changed %v, want %v, %v", set.Annotations, changed, test.want, test.changed)
			}
		})
	}
}

func TestAppendHistoryDropsTheOldest(t *testing.T) {
	long := strings.TrimSuffix(strings.Repeat("123456789,", 200), ",")
	got, ok := appendHistory(long, "7")
	if !ok || len(got) > revisionHistoryLength || !strings.HasSuffix(got, ",7") {
		t.Errorf("got %d characters, ok %v", len(got), ok)
	}
}

func TestSetName(t *testing.T) {
	if got := setName("web", "abc"); got != "web-abc" {
		t.Errorf("got %q", got)
	}
	if got := setName(strings.Repeat("a", 253), "abc"); len(got) != 253 || !strings.HasSuffix(got, "-abc") {
		t.Errorf("got %d characters", len(got))
	}
}

func TestSuperfluousSets(t *testing.T) {
	d := rolling(1, "new", 1, 0)
	d.Spec.RevisionHistoryLimit = ptr(int32(1))
	numbered := func(set *appsv1.ReplicaSet, n string) *appsv1.ReplicaSet {
		set.Annotations = map[string]string{revision: n}
		return set
	}
	r := newRollout(d, []*appsv1.ReplicaSet{
		numbered(replicas("third", time.Hour, 0, 0, 0), "3"), numbered(replicas("first", time.Minute, 0, 0, 0), "1"),
		numbered(replicas("second", time.Second, 1, 1, 0), "2"), numbered(replicas("new", 0, 1, 1, 0), "4"),
	})
	if got := r.superfluous(); len(got) != 1 || got[0].Name != "first" {
		t.Errorf("got %d sets, want the first only: the second is not empty", len(got))
	}
}

func TestDeploymentProgress(t *testing.T) {
	deployment := func(reason string, age time.Duration) *appsv1.Deployment {
		d := rolling(3, "new", 1, 0)
		d.Spec.ProgressDeadlineSeconds = ptr(int32(60))
		if reason != "" {
			d.Status.Conditions = []appsv1.DeploymentCondition{newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reason, "", now.Add(-age))}
		}
		d.Status.Replicas, d.Status.UpdatedReplicas = 3, 2
		return d
	}
	for _, test := range []struct {
		name       string
		deployment *appsv1.Deployment
		available  int32
		reason     string
		check      bool
	}{
		{"complete", deployment("ReplicaSetUpdated", time.Second), 3, newReplicaSetAvailable, false},
		{"moving", deployment("ReplicaSetUpdated", time.Second), 2, "ReplicaSetUpdated", true},
		{"stuck", deployment("ReplicaSetUpdated", 2*time.Minute), 0, progressDeadlineExceeded, false},
		{"finished stays finished", deployment(newReplicaSetAvailable, time.Hour), 1, newReplicaSetAvailable, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := test.deployment
			if test.name == "stuck" {
				d.Status.UpdatedReplicas = 3
			}
			r := newRollout(d, []*appsv1.ReplicaSet{replicas("new", 0, 3, test.available, 0)})
			r.finish(now)
			c := deploymentCondition(d, appsv1.DeploymentProgressing)
			if c == nil || c.Reason != test.reason {
				t.Errorf("Progressing: got %+v, want %s", c, test.reason)
			}
			if got := r.nextProgressCheck(now) > 0; got != test.check {
				t.Errorf("to be checked again: got %v, want %v", got, test.check)
			}
		})
	}
}

func TestTemplatePatchBytes(t *testing.T) {
	template := &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"b": "2", "a": "1"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}, TerminationGracePeriodSeconds: ptr(int64(30))},
	}
	want := `{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"a":"1","b":"2"}},"spec":{"containers":[{"image":"i","name":"c","resources":{}}],"terminationGracePeriodSeconds":30}}}}`
	got := templatePatch(template)
	if !bytes.Equal(got, []byte(want)) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	back, err := templateOf(&appsv1.ControllerRevision{Data: rawData(got)})
	if err != nil || !sameTemplate(back, template) {
		t.Errorf("read back: got %+v, %v", back, err)
	}
}

func rawData(data []byte) runtime.RawExtension { return runtime.RawExtension{Raw: data} }
