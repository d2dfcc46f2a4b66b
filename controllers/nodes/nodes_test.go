package nodes

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

func withConditions(name string, conditions ...corev1.NodeCondition) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: conditions}}
}

func is(kind corev1.NodeConditionType, status corev1.ConditionStatus) corev1.NodeCondition {
	return corev1.NodeCondition{Type: kind, Status: status}
}

func wording(taints []corev1.Taint) string {
	words := []string{}
	for _, t := range taints {
		words = append(words, t.Key+":"+string(t.Effect))
	}
	return fmt.Sprint(words)
}

func TestConditionTaints(t *testing.T) {
	cordoned := withConditions("n", is(corev1.NodeReady, corev1.ConditionTrue))
	cordoned.Spec.Unschedulable = true
	fresh := withConditions("n")
	fresh.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}
	for _, test := range []struct {
		name string
		node *corev1.Node
		want string
	}{
		{"well", withConditions("n", is(corev1.NodeReady, corev1.ConditionTrue), is(corev1.NodeDiskPressure, corev1.ConditionFalse)), "[]"},
		{"not ready", withConditions("n", is(corev1.NodeReady, corev1.ConditionFalse)), "[node.kubernetes.io/not-ready:NoSchedule node.kubernetes.io/not-ready:NoExecute]"},
		{"lost", withConditions("n", is(corev1.NodeReady, corev1.ConditionUnknown)), "[node.kubernetes.io/unreachable:NoSchedule node.kubernetes.io/unreachable:NoExecute]"},
		{"under pressure", withConditions("n", is(corev1.NodeReady, corev1.ConditionTrue), is(corev1.NodeMemoryPressure, corev1.ConditionTrue)), "[node.kubernetes.io/memory-pressure:NoSchedule]"},
		{"cordoned", cordoned, "[node.kubernetes.io/unschedulable:NoSchedule]"},
		{"never reported", fresh, "[node.kubernetes.io/not-ready:NoSchedule]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := wording(conditionTaints(test.node, metav1.NewTime(now))); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestMergeTaintsKeepsThoseOfOthers(t *testing.T) {
	has := []corev1.Taint{
		{Key: "mine", Value: "v", Effect: corev1.TaintEffectNoExecute},
		{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute},
		{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute},
	}
	wanted := []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}, {Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoSchedule}}
	want := "[mine:NoExecute node.kubernetes.io/out-of-service:NoExecute node.kubernetes.io/unreachable:NoExecute node.kubernetes.io/unreachable:NoSchedule]"
	if got := wording(mergeTaints(has, wanted)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestDisruption(t *testing.T) {
	for _, test := range []struct {
		well, lost int
		want       disruption
	}{
		{2, 1, single}, {1, 2, single}, {0, 1, total}, {0, 5, total}, {2, 3, partial}, {3, 3, single},
	} {
		c := newCensus()
		fill(c, "well", test.well, corev1.ConditionTrue)
		fill(c, "lost", test.lost, corev1.ConditionUnknown)
		if got, nodes := c.disruption("/"); got != test.want || nodes != test.well+test.lost {
			t.Errorf("%d well, %d lost: got %d of %d nodes, want %d", test.well, test.lost, got, nodes, test.want)
		}
	}
}

// fill puts nodes of one status into a census.
func fill(c *census, name string, n int, status corev1.ConditionStatus) {
	for i := range n {
		c.put(withConditions(fmt.Sprint(name, i), is(corev1.NodeReady, status)))
	}
}

func TestCensusSaysWhomAChangeConcerns(t *testing.T) {
	turn := func(name string, status corev1.ConditionStatus) func(*census) []string {
		return func(c *census) []string { return c.put(withConditions(name, is(corev1.NodeReady, status))) }
	}
	for _, test := range []struct {
		name       string
		well, lost int
		change     func(*census) []string
		want       int
	}{
		{"a node comes", 900, 90, turn("new", corev1.ConditionTrue), 0},
		{"a node comes and has not reported", 900, 90, func(c *census) []string { return c.put(withConditions("new")) }, 0},
		{"a node is lost", 900, 90, turn("well0", corev1.ConditionUnknown), 0},
		{"a node is back", 900, 90, turn("lost0", corev1.ConditionTrue), 0},
		{"nothing changes", 0, 90, turn("lost0", corev1.ConditionUnknown), 0},
		{"a node goes", 900, 90, func(c *census) []string { return c.remove("well0") }, 0},
		{"the last that was well is lost", 1, 90, turn("well0", corev1.ConditionUnknown), 91},
		{"the first is well", 0, 90, turn("lost0", corev1.ConditionTrue), 89},
		{"most of a large cluster are lost", 46, 55, turn("well0", corev1.ConditionUnknown), 0},
		{"most of a small cluster are lost", 3, 3, turn("well0", corev1.ConditionFalse), 4},
		{"no longer most of a small cluster are lost", 2, 3, turn("lost0", corev1.ConditionTrue), 2},
		{"a small cluster grows large", 20, 30, turn("new", corev1.ConditionTrue), 30},
		{"a node moves to a zone of its own", 2, 4, func(c *census) []string {
			node := withConditions("lost0", is(corev1.NodeReady, corev1.ConditionUnknown))
			node.Labels = map[string]string{corev1.LabelTopologyZone: "z"}
			return c.put(node)
		}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCensus()
			fill(c, "well", test.well, corev1.ConditionTrue)
			fill(c, "lost", test.lost, corev1.ConditionUnknown)
			if got := test.change(c); len(got) != test.want {
				t.Errorf("got %d nodes, want %d", len(got), test.want)
			}
		})
	}
}

func TestCensusCountsWhatIsThere(t *testing.T) {
	c := newCensus()
	fill(c, "n", 60, corev1.ConditionTrue)
	fill(c, "n", 30, corev1.ConditionFalse)
	for i := range 60 {
		c.remove(fmt.Sprint("n", i))
	}
	c.remove("n0")
	if len(c.nodes) != 0 || len(c.zones) != 0 || c.ready != 0 {
		t.Errorf("got %d nodes, %d zones, %d ready, want none", len(c.nodes), len(c.zones), c.ready)
	}
}

func TestAStatusThatCameBeforeItsEventIsASignOfLife(t *testing.T) {
	h := &health{grace: 50 * time.Second, signs: map[string]sign{}}
	// By its own clock the node's heartbeat is long ago; nobody was woken for it yet.
	node := withConditions("n", corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.NewTime(now.Add(-time.Hour))})
	for _, step := range []struct{ at, left time.Duration }{{0, 50 * time.Second}, {20 * time.Second, 30 * time.Second}, {time.Minute, -10 * time.Second}} {
		if got := h.timeLeft(node, now.Add(step.at)); got != step.left {
			t.Errorf("after %s: got %s, want %s", step.at, got, step.left)
		}
	}
}

func TestPace(t *testing.T) {
	p := newPace()
	for _, step := range []struct {
		at    time.Duration
		d     disruption
		nodes int
		ok    bool
		later time.Duration
	}{
		{0, single, 5, true, 0},
		{time.Second, single, 5, false, 9 * time.Second},
		{10 * time.Second, single, 5, true, 0},
		{time.Minute, partial, 5, false, 0},
		{time.Minute, total, 5, false, 0},
		{2 * time.Minute, partial, 500, true, 0},
		{3 * time.Minute, partial, 500, false, 40 * time.Second},
	} {
		if ok, later := p.allow("/", step.d, step.nodes, now.Add(step.at)); ok != step.ok || later != step.later {
			t.Errorf("after %s: got %v, %s, want %v, %s", step.at, ok, later, step.ok, step.later)
		}
	}
}

func TestSetUnknown(t *testing.T) {
	node := withConditions("n", corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.NewTime(now.Add(-time.Hour))})
	if !setUnknown(node, now) {
		t.Fatal("got no change")
	}
	for kind, reason := range map[corev1.NodeConditionType]string{corev1.NodeReady: "NodeStatusUnknown", corev1.NodeDiskPressure: "NodeStatusNeverUpdated"} {
		if c := condition(node, kind); c == nil || c.Status != corev1.ConditionUnknown || c.Reason != reason {
			t.Errorf("%s: got %+v, want Unknown because of %s", kind, c, reason)
		}
	}
	if got := condition(node, corev1.NodeReady).LastHeartbeatTime.Time; !got.Equal(now.Add(-time.Hour)) {
		t.Errorf("heartbeat: got %s, want it as it was", got)
	}
	if setUnknown(node, now) {
		t.Error("a second time: got a change")
	}
}

func TestTolerates(t *testing.T) {
	taint := func(key string) corev1.Taint { return corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute} }
	tolerate := func(key string, seconds ...int64) corev1.Toleration {
		t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists}
		if len(seconds) > 0 {
			t.TolerationSeconds = ptr(seconds[0])
		}
		return t
	}
	for _, test := range []struct {
		name        string
		tolerations []corev1.Toleration
		taints      []corev1.Taint
		forever     bool
		limit       time.Duration
	}{
		{"no taints", nil, nil, true, 0},
		{"not tolerated", []corev1.Toleration{tolerate("a")}, []corev1.Taint{taint("b")}, false, 0},
		{"tolerated for ever", []corev1.Toleration{tolerate("a")}, []corev1.Taint{taint("a")}, true, 0},
		{"for a time", []corev1.Toleration{tolerate("a", 30)}, []corev1.Taint{taint("a")}, false, 30 * time.Second},
		{"for the shortest", []corev1.Toleration{tolerate("a", 30), tolerate("b", 10)}, []corev1.Taint{taint("a"), taint("b")}, false, 10 * time.Second},
		{"one is not tolerated", []corev1.Toleration{tolerate("a", 30)}, []corev1.Taint{taint("a"), taint("b")}, false, 0},
		{"a negative time", []corev1.Toleration{tolerate("a", -5)}, []corev1.Taint{taint("a")}, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			if forever, limit := tolerates(test.tolerations, test.taints); forever != test.forever || limit != test.limit {
				t.Errorf("got %v, %s, want %v, %s", forever, limit, test.forever, test.limit)
			}
		})
	}
}

func TestFirstFree(t *testing.T) {
	for _, test := range []struct {
		name, cluster string
		bits          int
		taken         []string
		want          string
	}{
		{"the first", "10.244.0.0/16", 24, nil, "10.244.0.0/24"},
		{"the next", "10.244.0.0/16", 24, []string{"10.244.0.0/24"}, "10.244.1.0/24"},
		{"a gap", "10.244.0.0/16", 24, []string{"10.244.0.0/24", "10.244.2.0/24"}, "10.244.1.0/24"},
		{"behind a larger one", "10.244.0.0/16", 24, []string{"10.244.0.0/22"}, "10.244.4.0/24"},
		{"beside a smaller one", "10.244.0.0/16", 24, []string{"10.244.0.128/25"}, "10.244.1.0/24"},
		{"behind one in another", "10.244.0.0/16", 24, []string{"10.244.1.0/24", "10.244.0.0/22", "10.244.3.0/24"}, "10.244.4.0/24"},
		{"beside those of other clusters", "10.244.0.0/16", 24, []string{"10.0.0.0/24", "10.244.0.0/24", "192.168.0.0/16"}, "10.244.1.0/24"},
		{"none", "10.244.0.0/23", 24, []string{"10.244.0.0/24", "10.244.1.0/24"}, ""},
		{"the end of all addresses", "255.255.255.0/24", 25, []string{"255.255.255.0/24"}, ""},
		{"IPv6", "fd00::/48", 64, []string{"fd00::/64"}, "fd00:0:0:1::/64"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var taken []netip.Prefix
			for _, text := range test.taken {
				taken = append(taken, netip.MustParsePrefix(text))
			}
			slices.SortFunc(taken, byAddress)
			cluster := netip.MustParsePrefix(test.cluster)
			got, err := firstFree(cluster, netip.PrefixFrom(cluster.Addr(), test.bits), taken)
			if test.want == "" {
				if err == nil {
					t.Errorf("got %s, want none", got)
				}
				return
			}
			if err != nil || got.String() != test.want {
				t.Errorf("got %s, %v, want %s", got, err, test.want)
			}
		})
	}
}

func TestOldestEnded(t *testing.T) {
	pod := func(name string, phase corev1.PodPhase, age time.Duration) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(now.Add(-age))}, Status: corev1.PodStatus{Phase: phase}}
	}
	pods := []*corev1.Pod{pod("new", corev1.PodFailed, time.Second), pod("old", corev1.PodSucceeded, time.Hour), pod("runs", corev1.PodRunning, 2*time.Hour)}
	if got := oldestEnded(pods, 1); len(got) != 1 || got[0].Name != "old" {
		t.Errorf("got %d pods, want the old one", len(got))
	}
	if got := oldestEnded(pods, 2); got != nil {
		t.Errorf("got %d pods, want none", len(got))
	}
}
