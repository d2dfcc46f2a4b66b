package workloads

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func node(name string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"color": name}}, Spec: corev1.NodeSpec{Taints: taints}}
}

func TestFitOf(t *testing.T) {
	set := func(change func(*corev1.PodSpec)) *appsv1.DaemonSet {
		set := &appsv1.DaemonSet{}
		change(&set.Spec.Template.Spec)
		return set
	}
	plain := set(func(*corev1.PodSpec) {})
	for _, test := range []struct {
		name string
		set  *appsv1.DaemonSet
		node *corev1.Node
		want fit
	}{
		{"any node", plain, node("a"), fit{run: true, stay: true}},
		{"selector matches", set(func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"color": "a"} }), node("a"), fit{run: true, stay: true}},
		{"selector does not match", set(func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"color": "b"} }), node("a"), fit{}},
		{"another node by name", set(func(s *corev1.PodSpec) { s.NodeName = "b" }), node("a"), fit{}},
		{"no scheduling", plain, node("a", corev1.Taint{Key: "k", Effect: corev1.TaintEffectNoSchedule}), fit{stay: true}},
		{"no execution", plain, node("a", corev1.Taint{Key: "k", Effect: corev1.TaintEffectNoExecute}), fit{}},
		{"unreachable", plain, node("a", corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}), fit{run: true, stay: true}},
		{"cordoned", plain, node("a", corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}), fit{run: true, stay: true}},
		{"no network", plain, node("a", corev1.Taint{Key: corev1.TaintNodeNetworkUnavailable, Effect: corev1.TaintEffectNoSchedule}), fit{stay: true}},
		{"no network, on the host's", set(func(s *corev1.PodSpec) { s.HostNetwork = true }), node("a", corev1.Taint{Key: corev1.TaintNodeNetworkUnavailable, Effect: corev1.TaintEffectNoSchedule}), fit{run: true, stay: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := fitOf(test.set, test.node); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestPlanDaemons(t *testing.T) {
	of := func(hash string) podOption { return label(appsv1.DefaultDaemonSetUniqueLabelKey, hash) }
	up := readyFor(time.Minute)
	for _, test := range []struct {
		name               string
		surge, unavailable int
		pods               []*corev1.Pod
		presence, update   string // "+node" is created, "-pod" deleted
	}{
		{"missing everywhere", 0, 1, nil, "+a +b", ""},
		{"one each", 0, 1, []*corev1.Pod{newPod("pa", onNode("a"), of("new"), up), newPod("pb", onNode("b"), of("new"), up)}, "", ""},
		{"two on a node", 0, 1, []*corev1.Pod{newPod("pa", onNode("a"), of("new"), up, created(time.Hour)), newPod("pa2", onNode("a"), of("new"), up, created(0)), newPod("pb", onNode("b"), of("new"), up)}, "-pa2", ""},
		{"a failed one", 0, 1, []*corev1.Pod{newPod("pa", onNode("a"), of("new"), phase(corev1.PodFailed)), newPod("pb", onNode("b"), of("new"), up)}, "-pa", ""},
		{"one going holds its place", 0, 1, []*corev1.Pod{newPod("pa", onNode("a"), of("new"), up, deleting), newPod("pb", onNode("b"), of("new"), up)}, "", ""},
		{"on a node that is gone", 0, 1, []*corev1.Pod{newPod("pa", onNode("a"), of("new"), up), newPod("pb", onNode("b"), of("new"), up), newPod("pc", onNode("c"), of("new"), up)}, "", ""},
		{"update one at a time", 0, 1, []*corev1.Pod{newPod("pa", onNode("a"), of("old"), up), newPod("pb", onNode("b"), of("old"), up)}, "", "-pa"},
		{"update waits for the other", 0, 1, []*corev1.Pod{newPod("pa", onNode("a"), of("new")), newPod("pb", onNode("b"), of("old"), up)}, "", ""},
		{"update what is down anyway", 0, 1, []*corev1.Pod{newPod("pa", onNode("a"), of("old")), newPod("pb", onNode("b"), of("old"), up)}, "", "-pa"},
		{"surge", 1, 0, []*corev1.Pod{newPod("pa", onNode("a"), of("old"), up), newPod("pb", onNode("b"), of("old"), up)}, "", "+a"},
		{"surge ends the old when the new is up", 1, 0, []*corev1.Pod{newPod("pa", onNode("a"), of("old"), up), newPod("pa2", onNode("a"), of("new"), up), newPod("pb", onNode("b"), of("old"), up)}, "-pa", "+b -pa"},
	} {
		t.Run(test.name, func(t *testing.T) {
			set := &appsv1.DaemonSet{}
			set.Spec.UpdateStrategy.Type = appsv1.RollingUpdateDaemonSetStrategyType
			set.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: ptr(intstr.FromInt(test.surge)), MaxUnavailable: ptr(intstr.FromInt(test.unavailable))}
			s := newSpread(set, "new", []*corev1.Node{node("a"), node("b")}, test.pods, now)
			if got := wording(s.planPresence()); got != test.presence {
				t.Errorf("presence: got %q, want %q", got, test.presence)
			}
			if test.name == "missing everywhere" || strings.HasPrefix(test.name, "two") || strings.HasPrefix(test.name, "a failed") {
				return // the rollout moves only when all is in place
			}
			if got := wording(s.planUpdate()); got != test.update {
				t.Errorf("update: got %q, want %q", got, test.update)
			}
		})
	}
}

func wording(plan daemonPlan) string {
	var words []string
	for _, node := range plan.create {
		words = append(words, "+"+node)
	}
	for _, pod := range plan.remove {
		words = append(words, "-"+pod.Name)
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

func TestDaemonPodIsMeantForItsNode(t *testing.T) {
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent", Annotations: map[string]string{appsv1.DeprecatedTemplateGeneration: "2"}}}
	pod := daemonPod(set, "hash", "a")
	if got := nodeOf(pod); got != "a" {
		t.Errorf("node: got %q, want a", got)
	}
	if pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] != "hash" || pod.Labels[templateGeneration] != "2" {
		t.Errorf("labels: got %v", pod.Labels)
	}
	if len(pod.Spec.Tolerations) != 6 {
		t.Errorf("tolerations: got %d, want 6", len(pod.Spec.Tolerations))
	}
}

func TestDaemonStatus(t *testing.T) {
	set := &appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{MinReadySeconds: 10}}
	set.Spec.Template.Spec.NodeSelector = map[string]string{"color": "a"}
	pods := []*corev1.Pod{newPod("pa", onNode("a"), label(appsv1.DefaultDaemonSetUniqueLabelKey, "new"), readyFor(4*time.Second)), newPod("pb", onNode("b"))}
	got, ripe := newSpread(set, "new", []*corev1.Node{node("a"), node("b")}, pods, now).status()
	want := appsv1.DaemonSetStatus{DesiredNumberScheduled: 1, CurrentNumberScheduled: 1, NumberMisscheduled: 1, NumberReady: 1, UpdatedNumberScheduled: 1, NumberUnavailable: 1}
	if fmt.Sprint(got) != fmt.Sprint(want) || ripe != 6*time.Second {
		t.Errorf("got %+v in %s, want %+v in 6s", got, ripe, want)
	}
}

func TestPlanStateful(t *testing.T) {
	member := func(i int, revision string, options ...podOption) *corev1.Pod {
		name := fmt.Sprintf("db-%d", i)
		return newPod(name, append([]podOption{label(appsv1.StatefulSetPodNameLabel, name), label(appsv1.StatefulSetRevisionLabel, revision)}, options...)...)
	}
	up, down := readyFor(time.Minute), phase(corev1.PodPending)
	for _, test := range []struct {
		name      string
		replicas  int32
		parallel  bool
		partition *int32
		onDelete  bool
		pods      []*corev1.Pod
		want      string
	}{
		{name: "the first", replicas: 3, want: "create 0 new"},
		{name: "the second waits for the first", replicas: 3, pods: []*corev1.Pod{member(0, "new", down)}, want: ""},
		{name: "the second", replicas: 3, pods: []*corev1.Pod{member(0, "new", up)}, want: "create 1 new"},
		{name: "all at once", replicas: 3, parallel: true, want: "create 0 new, create 1 new, create 2 new"},
		{name: "one in the middle is missing", replicas: 3, pods: []*corev1.Pod{member(0, "new", up), member(2, "new", up)}, want: "create 1 new"},
		{name: "a failed one is made anew", replicas: 1, pods: []*corev1.Pod{member(0, "new", phase(corev1.PodFailed))}, want: "delete db-0"},
		{name: "scale down from the top", replicas: 1, pods: []*corev1.Pod{member(0, "new", up), member(1, "new", up), member(2, "new", up)}, want: "delete db-2"},
		{name: "scale down waits for one going", replicas: 1, pods: []*corev1.Pod{member(0, "new", up), member(1, "new", up), member(2, "new", up, deleting)}, want: ""},
		{name: "scale down waits while a wanted one is down", replicas: 1, pods: []*corev1.Pod{member(0, "new", down), member(1, "new", up)}, want: ""},
		{name: "scale down of the one that is down", replicas: 1, pods: []*corev1.Pod{member(0, "new", up), member(1, "new", down)}, want: "delete db-1"},
		{name: "scale down at once", replicas: 0, parallel: true, pods: []*corev1.Pod{member(0, "new", up), member(1, "new", up)}, want: "delete db-1, delete db-0"},
		{name: "update from the top", replicas: 2, pods: []*corev1.Pod{member(0, "old", up), member(1, "old", up)}, want: "delete db-1"},
		{name: "update goes on", replicas: 2, pods: []*corev1.Pod{member(0, "old", up), member(1, "new", up)}, want: "delete db-0"},
		{name: "update stops at the partition", replicas: 2, partition: ptr(int32(1)), pods: []*corev1.Pod{member(0, "old", up), member(1, "new", up)}, want: ""},
		{name: "below the partition the old is restored", replicas: 2, partition: ptr(int32(1)), pods: []*corev1.Pod{member(1, "new", up)}, want: "create 0 old"},
		{name: "update by hand", replicas: 1, onDelete: true, pods: []*corev1.Pod{member(0, "old", up)}, want: ""},
		{name: "a wrong label is put right", replicas: 1, pods: []*corev1.Pod{member(0, "new", up, label(appsv1.StatefulSetPodNameLabel, "x"))}, want: "repair db-0"},
		{name: "a wrong label is put right at once", replicas: 1, parallel: true, pods: []*corev1.Pod{member(0, "new", down, label(appsv1.StatefulSetPodNameLabel, "x"))}, want: "repair db-0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{Replicas: &test.replicas}}
			set.Spec.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
			set.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: test.partition}
			if test.parallel {
				set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
			}
			if test.onDelete {
				set.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
			}
			var words []string
			for _, s := range newStatefulView(set, "old", "new", test.pods, now).plan() {
				if s.action == createPod {
					words = append(words, fmt.Sprintf("create %d %s", s.ordinal, s.revision))
				} else {
					words = append(words, string(s.action)+" "+s.pod.Name)
				}
			}
			if got := strings.Join(words, ", "); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestOrdinalOf(t *testing.T) {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}}
	for name, want := range map[string]int{"db-0": 0, "db-12": 12, "db-01": -1, "db": -1, "db-x": -1, "db-1-2": -1, "other-0": -1, "db--1": -1} {
		if got := ordinalOf(set, newPod(name)); got != want {
			t.Errorf("%s: got %d, want %d", name, got, want)
		}
	}
}

func TestClaimOwners(t *testing.T) {
	keep, remove := appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	type policy = appsv1.PersistentVolumeClaimRetentionPolicyType
	other := metav1.OwnerReference{Kind: "Other", Name: "o", UID: "o", Controller: ptr(true)}
	former := metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: "db-0", UID: "former"}
	for _, test := range []struct {
		name            string
		scaled, deleted policy
		pod             string
		has             []metav1.OwnerReference
		want            string
		conflict        bool
	}{
		{"kept always", keep, keep, "db-0", nil, "[]", false},
		{"kept always, was the set's", keep, keep, "db-0", []metav1.OwnerReference{{UID: "set"}}, "[]", false},
		{"goes with the set", keep, remove, "db-0", nil, "[set]", false},
		{"goes when scaled away, wanted", remove, keep, "db-0", nil, "[]", false},
		{"goes when scaled away", remove, keep, "db-5", nil, "[db-5]", false},
		{"goes with both, wanted", remove, remove, "db-0", nil, "[set]", false},
		{"goes with both, scaled away", remove, remove, "db-5", []metav1.OwnerReference{{UID: "set"}}, "[db-5]", false},
		{"another controller has it", remove, remove, "db-0", []metav1.OwnerReference{other}, "[o]", true},
		{"an earlier pod of the name has it", remove, remove, "db-0", []metav1.OwnerReference{former}, "[former]", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db", UID: "set"}, Spec: appsv1.StatefulSetSpec{
				Replicas:                             ptr(int32(2)),
				PersistentVolumeClaimRetentionPolicy: &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: test.scaled, WhenDeleted: test.deleted},
			}}
			refs, conflict := claimOwners(test.has, set, newPod(test.pod))
			owners := []string{}
			for _, ref := range refs {
				owners = append(owners, string(ref.UID))
			}
			if got := fmt.Sprint(owners); got != test.want || conflict != test.conflict {
				t.Errorf("got %s, conflict %v, want %s, %v", got, conflict, test.want, test.conflict)
			}
		})
	}
}
