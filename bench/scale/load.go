package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/bench/quantile"
)

const (
	idleTime = 30 * time.Second
	// patience is how long a step may take.
	patience = 10 * time.Minute
	// space is the namespace of the pods.
	space = "scale"
)

// load is what the cluster is asked to do.
type load struct {
	nodes, pods, deployments int
	idle                     time.Duration
	profile, spread          string
}

// figure is a row of the table.
type figure struct{ what, value string }

// column is what was measured of one control plane.
type column struct {
	name    string
	figures []figure
}

// table has the same rows for all.
func table(columns []column) string {
	var b strings.Builder
	b.WriteString("|")
	for _, c := range columns {
		b.WriteString(" | " + c.name)
	}
	b.WriteString(" |\n|---|" + strings.Repeat("---:|", len(columns)) + "\n")
	for row, f := range columns[0].figures {
		b.WriteString("| " + f.what)
		for _, c := range columns {
			b.WriteString(" | " + c.figures[row].value)
		}
		b.WriteString(" |\n")
	}
	return b.String()
}

// measure takes the cluster through the load.
func (l load) measure(ctx context.Context, c *controlPlane) (figures []figure, err error) {
	begun := time.Now()
	before, err := c.usage()
	if err != nil {
		return nil, err
	}
	// step measures one step; its function says what else there is to tell.
	step := func(what string, do func(context.Context) ([]figure, error)) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		fmt.Printf("%s …\n", what)
		start := time.Now()
		more, err := do(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		took := time.Since(start)
		now, err := c.usage()
		if err != nil {
			return err
		}
		figures = append(figures, figure{what, fmt.Sprintf("%.1f s", took.Seconds())})
		figures = append(figures, more...)
		figures = append(figures, figure{
			what + ": processor time, memory",
			fmt.Sprintf("%.1f s (%.0f %% of one), %d MB", (now.CPU - before.CPU).Seconds(), 100*(now.CPU-before.CPU).Seconds()/took.Seconds(), now.Resident/1e6),
		})
		before = now
		return nil
	}
	err = step("nodes registered, ready and free of taints", func(ctx context.Context) ([]figure, error) { return nil, l.awaitNodes(ctx, c) })
	if err == nil {
		err = step("pods made, bound and running", func(ctx context.Context) ([]figure, error) { return l.makePods(ctx, c) })
	}
	if err == nil {
		err = step("idle with them", func(ctx context.Context) ([]figure, error) { return nil, pause(ctx, l.idle) })
	}
	if err == nil {
		err = step("all pods deleted", func(ctx context.Context) ([]figure, error) { return nil, l.deletePods(ctx, c) })
	}
	return append(figures, figure{"in all", fmt.Sprintf("%.1f s", time.Since(begun).Seconds())}), err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// awaitNodes returns when all nodes are ready and nothing keeps pods from them.
func (l load) awaitNodes(ctx context.Context, c *controlPlane) error {
	well := make(map[string]bool)
	source := cache.NewListWatchFromClient(c.client.CoreV1().RESTClient(), "nodes", metav1.NamespaceAll, fields.Everything())
	_, err := toolswatch.UntilWithSync(ctx, source, &corev1.Node{}, nil, func(e watch.Event) (bool, error) {
		node, ok := e.Object.(*corev1.Node)
		if !ok {
			return false, fmt.Errorf("%v", e.Object)
		}
		well[node.Name] = isReady(node) && len(node.Spec.Taints) == 0
		if !well[node.Name] {
			delete(well, node.Name)
		}
		return len(well) == l.nodes, nil
	})
	if err != nil {
		return fmt.Errorf("%d of %d nodes are ready and free of taints: %w", len(well), l.nodes, err)
	}
	return nil
}

func isReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// life is when a client saw a pod reach each state.
type life struct{ made, bound, ready time.Time }

// makePods returns when all pods are ready.
func (l load) makePods(ctx context.Context, c *controlPlane) ([]figure, error) {
	if _, err := c.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: space}}, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	begun := time.Now()
	for i := range l.deployments {
		if _, err := c.client.AppsV1().Deployments(space).Create(ctx, l.deployment(i), metav1.CreateOptions{}); err != nil {
			return nil, err
		}
	}
	pods, ready := make(map[types.UID]*life), 0
	source := cache.NewListWatchFromClient(c.client.CoreV1().RESTClient(), "pods", space, fields.Everything())
	_, err := toolswatch.UntilWithSync(ctx, source, &corev1.Pod{}, nil, func(e watch.Event) (bool, error) {
		pod, ok := e.Object.(*corev1.Pod)
		if !ok {
			return false, fmt.Errorf("%v", e.Object)
		}
		p := pods[pod.UID]
		if p == nil {
			p = &life{made: time.Now()}
			pods[pod.UID] = p
		}
		if p.bound.IsZero() && pod.Spec.NodeName != "" {
			p.bound = time.Now()
		}
		if p.ready.IsZero() && pod.Status.Phase == corev1.PodRunning {
			p.ready = time.Now()
			ready++
		}
		return ready == l.pods, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%d of %d pods are running: %w", ready, l.pods, err)
	}
	var made, bound []time.Duration
	var waits []time.Duration
	for _, p := range pods {
		made, bound = append(made, p.made.Sub(begun)), append(bound, p.bound.Sub(begun))
		waits = append(waits, p.bound.Sub(p.made))
	}
	slices.Sort(waits)
	return []figure{
		{"pods made", rate(l.pods, slices.Max(made))},
		{"pods bound", rate(l.pods, slices.Max(bound))},
		{"from made to bound, p50 / p99", fmt.Sprintf("%.2f / %.2f s", quantile.Of(waits, 0.5).Seconds(), quantile.Of(waits, 0.99).Seconds())},
	}, nil
}

func rate(n int, d time.Duration) string {
	return fmt.Sprintf("%.0f/s, all after %.1f s", float64(n)/d.Seconds(), d.Seconds())
}

func (l load) deployment(i int) *appsv1.Deployment {
	replicas := l.pods / l.deployments
	if i < l.pods%l.deployments {
		replicas++
	}
	labels := map[string]string{"app": fmt.Sprintf("app-%d", i)}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: labels["app"]},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(int32(replicas)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "none"}}},
			},
		},
	}
	if l.spread != "" {
		d.Spec.Template.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: l.spread, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: labels},
		}}
	}
	return d
}

// deletePods returns when no pod is left.
func (l load) deletePods(ctx context.Context, c *controlPlane) error {
	background := metav1.DeletePropagationBackground
	if err := c.client.AppsV1().Deployments(space).DeleteCollection(ctx, metav1.DeleteOptions{PropagationPolicy: &background}, metav1.ListOptions{}); err != nil {
		return err
	}
	for {
		pods, err := c.client.CoreV1().Pods(space).List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil || len(pods.Items) == 0 {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return errors.Join(errors.New("pods are left"), err)
		}
	}
}
