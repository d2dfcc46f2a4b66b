package fakenodes

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var (
	placed = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ips    = []corev1.PodIP{{IP: "10.0.0.2"}}
)

func podWith(policy corev1.RestartPolicy, change func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "u", Generation: 1, Annotations: map[string]string{}},
		Spec:       corev1.PodSpec{RestartPolicy: policy, Containers: []corev1.Container{{Name: "a", Image: "x"}, {Name: "b", Image: "y"}}},
		Status: corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(placed)},
		}},
	}
	if change != nil {
		change(pod)
	}
	return pod
}

// live takes a pod through the given times after its placement, and describes its status at each.
func live(pod *corev1.Pod, after ...time.Duration) []string {
	var seen []string
	for _, d := range after {
		s := decide(pod, Behaviour{}, ips, placed.Add(d))
		pod.Status = s.status
		seen = append(seen, describe(pod)+pause(s))
	}
	return seen
}

func pause(s step) string {
	switch {
	case s.remove:
		return ", remove"
	case s.again > 0:
		return ", again in " + s.again.String()
	}
	return ""
}

func describe(pod *corev1.Pod) string {
	words := []string{string(pod.Status.Phase)}
	if pod.Status.Reason != "" {
		words = append(words, pod.Status.Reason)
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			words = append(words, "ready")
		}
	}
	c := pod.Status.ContainerStatuses[0]
	switch {
	case c.State.Waiting != nil:
		words = append(words, c.State.Waiting.Reason)
	case c.State.Terminated != nil:
		words = append(words, c.State.Terminated.Reason)
	}
	if c.RestartCount > 0 {
		words = append(words, "restarted")
	}
	return strings.Join(words, " ")
}

func annotated(pairs ...string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		for i := 0; i < len(pairs); i += 2 {
			pod.Annotations[pairs[i]] = pairs[i+1]
		}
	}
}

func TestDecide(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		policy corev1.RestartPolicy
		change func(*corev1.Pod)
		after  []time.Duration
		want   []string
	}{
		"always restarted: runs for ever": {
			corev1.RestartPolicyAlways, nil,
			[]time.Duration{0, time.Hour},
			[]string{"Running ready", "Running ready"},
		},
		"never restarted: a second": {
			corev1.RestartPolicyNever, nil,
			[]time.Duration{0, s / 2, s, 2 * s},
			[]string{"Running ready, again in 1s", "Running ready, again in 500ms", "Succeeded Completed", "Succeeded Completed"},
		},
		"fails": {
			corev1.RestartPolicyNever, annotated(ExitCode, "3", RunFor, "2s"),
			[]time.Duration{0, 2 * s},
			[]string{"Running ready, again in 2s", "Failed Error"},
		},
		"restarted on failure, with back-off": {
			corev1.RestartPolicyOnFailure, annotated(ExitCode, "1"),
			[]time.Duration{0, s, 2 * s, 11 * s, 12 * s, 31 * s},
			[]string{
				"Running ready, again in 1s", "Running CrashLoopBackOff, again in 10s", "Running CrashLoopBackOff, again in 9s",
				"Running ready restarted, again in 1s", "Running CrashLoopBackOff restarted, again in 20s", "Running CrashLoopBackOff restarted, again in 1s",
			},
		},
		"not restarted after success": {
			corev1.RestartPolicyOnFailure, nil,
			[]time.Duration{0, s},
			[]string{"Running ready, again in 1s", "Succeeded Completed"},
		},
		"starts later": {
			corev1.RestartPolicyAlways, annotated(StartAfter, "5s"),
			[]time.Duration{0, 5 * s},
			[]string{"Pending ContainerCreating, again in 5s", "Running ready"},
		},
		"is not ready": {
			corev1.RestartPolicyAlways, annotated(Ready, "false"),
			[]time.Duration{0},
			[]string{"Running"},
		},
		"a duration that is none": {
			corev1.RestartPolicyAlways, annotated(RunFor, "long"),
			[]time.Duration{0},
			[]string{"Pending CreateContainerConfigError"},
		},
		"a deadline": {
			corev1.RestartPolicyAlways, func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](4) },
			[]time.Duration{0, s, 4 * s},
			[]string{"Running ready, again in 4s", "Running ready, again in 3s", "Failed DeadlineExceeded Error"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := live(podWith(c.policy, c.change), c.after...)
			if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// A pod that is deleted ends at once; how, is noted where somebody waits for it, and it is removed once.
func TestDecideDeleted(t *testing.T) {
	pod := podWith(corev1.RestartPolicyAlways, nil)
	live(pod, 0)
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &metav1.Time{Time: placed}, ptr.To[int64](30)
	if got := live(pod, time.Second)[0]; got != "Running ready, remove" {
		t.Errorf("nobody waits: %s", got)
	}
	pod.Finalizers = []string{"example.com/wait"}
	if got := live(pod, time.Second)[0]; got != "Failed Error, remove" {
		t.Errorf("somebody waits: %s", got)
	}
	pod.DeletionGracePeriodSeconds = ptr.To[int64](0)
	if got := live(pod, time.Minute)[0]; got != "Failed Error" {
		t.Errorf("removed before: %s", got)
	}
}

// What others write into a status stays, and gates that they keep hold a pod back.
func TestDecideGates(t *testing.T) {
	pod := podWith(corev1.RestartPolicyAlways, func(p *corev1.Pod) {
		p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/gate"}}
	})
	if got := live(pod, 0)[0]; got != "Running" {
		t.Errorf("without the gate's condition: %s", got)
	}
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: "example.com/gate", Status: corev1.ConditionTrue})
	if got := live(pod, time.Minute)[0]; got != "Running ready" {
		t.Errorf("with it: %s", got)
	}
	if n := len(pod.Status.Conditions); n != 6 {
		t.Errorf("%d conditions, want the scheduler's, the gate's and four of ours", n)
	}
}

func TestDecideContainers(t *testing.T) {
	pod := podWith(corev1.RestartPolicyNever, func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "first"}, {Name: "sidecar", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}}
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug"}}}
	})
	live(pod, 0)
	s := pod.Status
	if s.InitContainerStatuses[0].State.Terminated == nil || s.InitContainerStatuses[1].State.Running == nil || s.EphemeralContainerStatuses[0].State.Running == nil {
		t.Errorf("statuses while it runs: %+v", s)
	}
	if s.PodIP != "10.0.0.2" || s.ObservedGeneration != 1 || len(s.ContainerStatuses) != 2 {
		t.Errorf("status while it runs: %+v", s)
	}
	if again := decide(pod, Behaviour{}, ips, placed.Add(time.Second/2)); !equality.Semantic.DeepEqual(again.status, s) {
		t.Errorf("the status changes although nothing happened:\n%+v\n%+v", s, again.status)
	}
}

func FuzzScript(f *testing.F) {
	for _, seed := range []string{"", "5s", "-1h", "9999999h", "true", "256", "-1"} {
		f.Add(seed, seed, seed, seed)
	}
	f.Fuzz(func(t *testing.T, startAfter, runFor, exitCode, ready string) {
		pod := podWith(corev1.RestartPolicyOnFailure, annotated(StartAfter, startAfter, RunFor, runFor, ExitCode, exitCode, Ready, ready))
		for d := range 20 {
			s := decide(pod, Behaviour{}, ips, placed.Add(time.Duration(d)*time.Minute))
			if s.again < 0 {
				t.Fatalf("again in %v", s.again)
			}
			pod.Status = s.status
		}
	})
}
