package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/bench/quantile"
	"github.com/skiff-k8s/skiff/bench/rig"
)

const (
	// users are those that flood: each has a flow of its own.
	users = 10
	group = "flooders"
	// between is the time from one renewal of a node's lease to the next. Nodes of a cluster wait ten seconds.
	between = 500 * time.Millisecond
	// glance is the time between questions of the administrator.
	glance = 50 * time.Millisecond
	leases = "kube-node-lease"
)

// prepare makes what the flood lists, and lets its users do so.
func prepare(ctx context.Context, r *rig.Rig, objects int) error {
	role := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: group}
	if _, err := r.Client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: group},
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if _, err := r.Client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: group},
		RoleRef: role, Subjects: []rbacv1.Subject{{Kind: "Group", APIGroup: rbacv1.GroupName, Name: group}}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	for i := range objects {
		c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c-", i)}, Data: map[string]string{"x": strings.Repeat("x", 1000)}}
		if _, err := r.Client.CoreV1().ConfigMaps("default").Create(ctx, c, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	_, err := r.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: leases}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// world are the clients of a server.
type world struct {
	admin    *kubernetes.Clientset
	flooders []string // kubeconfigs
	nodes    []*kubernetes.Clientset
	leases   []*coordinationv1.Lease
}

func newWorld(ctx context.Context, r *rig.Rig, s settings) (*world, error) {
	w := &world{}
	var err error
	if w.admin, err = own(r.Admin); err != nil {
		return nil, err
	}
	for i := range s.flooders {
		name := fmt.Sprint("flooder-", i%users)
		kubeconfig, err := r.Kubeconfig(name, name, group)
		if err != nil {
			return nil, err
		}
		w.flooders = append(w.flooders, kubeconfig)
	}
	for i := range s.clients - s.flooders - 1 {
		name := fmt.Sprint("n", i)
		c, err := client(r, name, "system:node:"+name, "system:nodes")
		if err != nil {
			return nil, err
		}
		lease, err := c.CoordinationV1().Leases(leases).Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
		w.nodes, w.leases = append(w.nodes, c), append(w.leases, lease)
	}
	return w, nil
}

func client(r *rig.Rig, name, user string, groups ...string) (*kubernetes.Clientset, error) {
	kubeconfig, err := r.Kubeconfig(name, user, groups...)
	if err != nil {
		return nil, err
	}
	return own(kubeconfig)
}

// own is a client that shares its connection with no other: one with a way to dial of its own is not kept by client-go.
func own(kubeconfig string) (*kubernetes.Clientset, error) {
	config, err := rig.Config(kubeconfig)
	if err != nil {
		return nil, err
	}
	config.Dial = (&net.Dialer{}).DialContext
	return kubernetes.NewForConfig(config)
}

// seen is what the clients saw.
type seen struct {
	mu             sync.Mutex
	renewals, gets []time.Duration
	failed         int
	inServer       spent // of renewals
	flooded
}

func (s *seen) add(to *[]time.Duration, began time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.failed++
		return
	}
	*to = append(*to, time.Since(began))
}

// observe has the first of the flooders list for a time, and nodes and administrator do what they do.
func (w *world) observe(ctx context.Context, flooders int, length time.Duration) (*seen, error) {
	s := &seen{}
	stop, err := startFlooders(w.flooders[:flooders])
	if err != nil {
		return nil, err
	}
	before, err := w.spent(ctx)
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithTimeout(ctx, length)
	defer end()
	var all sync.WaitGroup
	for i, c := range w.nodes {
		all.Go(func() {
			every(ctx, between, func() {
				lease, began := w.leases[i].DeepCopy(), time.Now()
				lease.Spec.RenewTime = &metav1.MicroTime{Time: began}
				renewed, err := c.CoordinationV1().Leases(leases).Update(context.WithoutCancel(ctx), lease, metav1.UpdateOptions{})
				if s.add(&s.renewals, began, err); err == nil {
					w.leases[i] = renewed
				}
			})
		})
	}
	all.Go(func() {
		every(ctx, glance, func() {
			began := time.Now()
			_, err := w.admin.CoreV1().ConfigMaps("default").Get(context.WithoutCancel(ctx), "c-0", metav1.GetOptions{})
			s.add(&s.gets, began, err)
		})
	})
	all.Wait()
	after, err := w.spent(context.WithoutCancel(ctx))
	if err != nil {
		return nil, err
	}
	s.inServer = after.since(before)
	if s.flooded, err = stop(); err != nil {
		return nil, err
	}
	if len(s.renewals) == 0 || len(s.gets) == 0 {
		return nil, fmt.Errorf("nothing was answered, and %d requests failed", s.failed)
	}
	return s, nil
}

// every calls do again and again until ctx ends, a pause after each call.
func every(ctx context.Context, pause time.Duration, do func()) {
	for ctx.Err() == nil {
		do()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func head(out io.Writer, s settings) {
	fmt.Fprintf(out, "%d clients: %d nodes, an administrator, and those that list %d objects of 1 KB without a pause; %s each.\n\n", s.clients, s.clients-s.flooders-1, s.objects, s.length)
	fmt.Fprint(out, "| server | flooders | leases p50 | p99 | max | mean in the server | of it for a seat | get p50 | p99 | max | failed | lists | refused (429) | broken |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
}

func (s *seen) row(out io.Writer, name string, flooders int) {
	slices.Sort(s.renewals)
	slices.Sort(s.gets)
	ms := func(all []time.Duration, share float64) string {
		return fmt.Sprintf("%.1f ms", quantile.Of(all, share).Seconds()*1000)
	}
	fmt.Fprintf(out, "| %s | %d | %s | %s | %s | %s | %s | %s | %s | %s | %d | %d | %d | %d |\n", name, flooders, ms(s.renewals, 0.5), ms(s.renewals, 0.99), ms(s.renewals, 1),
		s.inServer.serving, s.inServer.waiting, ms(s.gets, 0.5), ms(s.gets, 0.99), ms(s.gets, 1), s.failed, s.Lists, s.Refused, s.Broken)
}
