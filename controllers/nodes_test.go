package controllers_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/controllers"
)

func hasTaint(node *corev1.Node, key string, effect corev1.TaintEffect) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key && t.Effect == effect })
}

func TestLostNodeIsTaintedAndItsPodsGo(t *testing.T) {
	w := startWith(t, controllers.Config{NodeMonitorGrace: 4 * time.Second})
	ctx := t.Context()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: template("p", "x").Spec}
	pod.Spec.NodeName = "n1"
	pod.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr(int64(1))}}
	if _, err := w.CoreV1().Pods(w.namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	node := func(check func(*corev1.Node) error) func() error {
		return func() error {
			n, err := w.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
			if err != nil {
				return err
			}
			return check(n)
		}
	}
	w.eventually("a node without taints, with a range", node(func(n *corev1.Node) error {
		// Whichever of the two nodes was seen first has the first ranges.
		first, second := []string{"10.244.0.0/24", "fd00:10:244::/64"}, []string{"10.244.1.0/24", "fd00:10:244:1::/64"}
		if len(n.Spec.Taints) > 0 || n.Spec.PodCIDR == "" || !slices.Equal(n.Spec.PodCIDRs, first) && !slices.Equal(n.Spec.PodCIDRs, second) {
			return fmt.Errorf("spec %+v", n.Spec)
		}
		return nil
	}))
	label := func(value string) {
		if _, err := w.CoreV1().Nodes().Patch(ctx, "n1", types.MergePatchType, []byte(`{"metadata":{"labels":{"down":`+value+`}}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	label(`"yes"`)
	w.eventually("the taints of a lost node", node(func(n *corev1.Node) error {
		if !hasTaint(n, corev1.TaintNodeUnreachable, corev1.TaintEffectNoSchedule) || !hasTaint(n, corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute) {
			return fmt.Errorf("taints %v, conditions %v", n.Spec.Taints, n.Status.Conditions)
		}
		return nil
	}))
	w.eventually("the eviction of its pod", func() error {
		_, err := w.CoreV1().Pods(w.namespace).Get(ctx, "p", metav1.GetOptions{})
		return gone(err)
	})
	label("null")
	w.eventually("a node that is back", node(func(n *corev1.Node) error {
		if len(n.Spec.Taints) > 0 {
			return fmt.Errorf("taints %v", n.Spec.Taints)
		}
		return nil
	}))
}

func TestPodsOfANodeThatNeverReportedStayReady(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	if _, err := w.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n3"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: template("p", "x").Spec}
	pod.Spec.NodeName = "n3"
	pod.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	if _, err := w.CoreV1().Pods(w.namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ready := func() error {
		pod, err := w.CoreV1().Pods(w.namespace).Get(ctx, "p", metav1.GetOptions{})
		if err == nil && !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}) {
			err = fmt.Errorf("conditions %v", pod.Status.Conditions)
		}
		return err
	}
	w.eventually("a pod that is ready", ready)
	if _, err := w.CoreV1().Nodes().Patch(ctx, "n3", types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the taint of a cordoned node", func() error { // by then the loop has looked at the node
		node, err := w.CoreV1().Nodes().Get(ctx, "n3", metav1.GetOptions{})
		if err == nil && !hasTaint(node, corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule) {
			err = fmt.Errorf("taints %v", node.Spec.Taints)
		}
		return err
	})
	if err := ready(); err != nil {
		t.Errorf("a pod of a node that never reported: %v", err)
	}
}

func TestTaintEvictsWhoDoesNotTolerate(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	for name, tolerations := range map[string][]corev1.Toleration{
		"leaves": nil,
		"stays":  {{Key: "key", Operator: corev1.TolerationOpExists}},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: template(name, "x").Spec}
		pod.Spec.NodeName, pod.Spec.Tolerations = "n1", tolerations
		if _, err := w.CoreV1().Pods(w.namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	watch, err := w.CoreV1().Pods(w.namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=leaves"})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	w.eventually("the taint", func() error {
		node, err := w.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: "key", Value: "v", Effect: corev1.TaintEffectNoExecute})
		_, err = w.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
		return err
	})
	marked := false
	for event := range watch.ResultChan() {
		pod, ok := event.Object.(*corev1.Pod)
		if !ok {
			t.Fatalf("event %v", event)
		}
		marked = marked || slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.DisruptionTarget && c.Reason == "DeletionByTaintManager"
		})
		if event.Type == "DELETED" {
			break
		}
	}
	if !marked {
		t.Error("the evicted pod was not marked as DisruptionTarget")
	}
	if _, err := w.CoreV1().Pods(w.namespace).Get(ctx, "stays", metav1.GetOptions{}); err != nil {
		t.Errorf("a pod that tolerates the taint: %v", err)
	}
}
