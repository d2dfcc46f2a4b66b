// Package skifftest runs a whole Kubernetes control plane inside a Go test: the API server with RBAC and admission, all
// controllers, the scheduler, and nodes on which pods become Running and Ready. It is in the process of the test, needs no
// port, no file, no root and no binary, and is gone when the test ends:
//
//	func TestController(t *testing.T) {
//		c := skifftest.Start(t)
//		pods, err := c.Client().CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
//		…
//
// Config is a rest.Config for clients and controllers of any kind, User one with fewer rights, and Kubeconfig opens a port
// for programs outside. Snapshot, Restore and Fork copy the state of a cluster, Template gives each test a copy of one.
//
// What runs here is what skiff up runs; the nodes are those of package fakenodes, which plays kubelets.
package skifftest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/pprof"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Cluster is a control plane that runs until its test ends. Its methods may be called concurrently.
type Cluster struct {
	t       testing.TB
	id      string
	options options
	log     *output
	client  kubernetes.Interface
	asked   journal
	faults  faults

	changing sync.Mutex // held while one server takes the place of another, and at the end
	mu       sync.Mutex
	live     *life         // nil while there is none
	opened   chan struct{} // closed when live is there
	ended    bool
	port     string // where Kubeconfig listens
}

// instances counts the clusters of this process.
var instances atomic.Int64

// Start runs a cluster until t and its subtests have ended. It returns when the cluster can be used: its nodes are
// ready, and pods can be made in namespace default.
//
// The test fails if something of the cluster still runs after its end.
func Start(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	o := with(opts)
	c := newCluster(t, o)
	c.start(pristine.of(o))
	return c
}

func newCluster(t testing.TB, o options) *Cluster {
	c := &Cluster{t: t, options: o, id: strconv.FormatInt(instances.Add(1), 10), opened: make(chan struct{}), log: &output{t: t}}
	client, err := kubernetes.NewForConfig(&rest.Config{Host: inProcess, Transport: &entrance{c, identity(admin, user.SystemPrivilegedGroup)}, QPS: -1})
	if err != nil {
		t.Fatalf("skifftest: %v", err) // the configuration is always the same
	}
	c.client = client
	return c
}

// start begins with what s holds; nil: with nothing.
func (c *Cluster) start(s *Snapshot) {
	c.t.Helper()
	c.t.Cleanup(c.end)
	err := c.within(func() error {
		b, err := c.options.engine(s)
		if err != nil {
			return err
		}
		if err := c.begin(b, s == nil); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), startLimit)
		defer cancel()
		if err := c.settle(ctx); err != nil {
			return err
		}
		if s != nil {
			return nil
		}
		return pristine.keep(ctx, c)
	})
	if err != nil {
		c.t.Fatalf("skifftest: start: %v", err)
	}
}

// within calls a function in a goroutine whose label, which those have that it starts, says that they are the cluster's.
func (c *Cluster) within(f func() error) error {
	done := make(chan error, 1)
	go func() {
		pprof.SetGoroutineLabels(c.labelled(context.Background()))
		done <- f()
	}()
	return <-done
}

// label is the name of the label of goroutines that says which cluster they belong to.
const label = "skifftest"

func (c *Cluster) labelled(ctx context.Context) context.Context {
	return pprof.WithLabels(ctx, pprof.Labels(label, c.id))
}

// end stops the cluster, and fails the test if something of it lives on.
func (c *Cluster) end() {
	c.t.Helper()
	c.changing.Lock()
	defer c.changing.Unlock()
	c.mu.Lock()
	l := c.live
	c.live, c.ended = nil, true
	c.mu.Unlock()
	if l != nil {
		if err := errors.Join(l.end(), l.backend.Close()); err != nil {
			c.t.Errorf("skifftest: stop: %v", err)
		}
	}
	if left := c.leftover(); left != "" {
		c.t.Errorf("skifftest: goroutines of the cluster outlive it:\n%s", left)
	}
	c.log.close()
}

// Config reaches the cluster as an administrator.
func (c *Cluster) Config() *rest.Config { return c.User(admin, user.SystemPrivilegedGroup) }

// admin is the name of the administrator.
const admin = "kubernetes-admin"

// Client is a client of an administrator that is the test's own: its requests are not among Requests, and no fault strikes
// them.
func (c *Cluster) Client() kubernetes.Interface { return c.client }

// User reaches the cluster as a user of groups. All rights are those that RBAC gives: see Grant.
func (c *Cluster) User(name string, groups ...string) *rest.Config {
	return &rest.Config{Host: inProcess, Transport: &observed{entrance{c, identity(name, groups...)}}, QPS: -1}
}

// inProcess is the address of a server that is reached without a socket.
const inProcess = "https://in-process"

func identity(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: append([]string{user.AllAuthenticated}, groups...)}
}

// Grant gives a user rights in the whole cluster, in addition to those it has.
func (c *Cluster) Grant(name string, rules ...rbacv1.PolicyRule) {
	c.t.Helper()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{GenerateName: "skifftest-"}, Rules: rules}
	ctx := context.Background()
	role, err := c.client.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{})
	if err == nil {
		_, err = c.client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role.Name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		c.t.Fatalf("skifftest: grant rights to %s: %v", name, err)
	}
}

// entrance leads to whatever server the cluster has.
type entrance struct {
	cluster *Cluster
	who     user.Info
}

// RoundTrip implements http.RoundTripper.
func (e *entrance) RoundTrip(r *http.Request) (*http.Response, error) {
	l, err := e.cluster.alive(r.Context())
	if err != nil {
		return nil, err
	}
	pprof.SetGoroutineLabels(e.cluster.labelled(r.Context()))
	defer pprof.SetGoroutineLabels(r.Context())
	return l.server.Transport(e.who).RoundTrip(r)
}

// observed is an entrance that writes requests down, and has faults strike them.
type observed struct{ entrance entrance }

// RoundTrip implements http.RoundTripper.
func (o *observed) RoundTrip(r *http.Request) (*http.Response, error) {
	c := o.entrance.cluster
	e := c.asked.begin(r, o.entrance.who.GetName(), c.faults.of)
	answer, err := c.strike(r, e.Request, o.entrance.RoundTrip)
	if err == nil {
		e.answered(answer)
	}
	return answer, err
}

// errEnded is what clients get that outlive their cluster.
var errEnded = fmt.Errorf("skifftest: the cluster has ended: %w", http.ErrServerClosed)

// alive waits until there is a server.
func (c *Cluster) alive(ctx context.Context) (*life, error) {
	for {
		c.mu.Lock()
		l, opened, ended := c.live, c.opened, c.ended
		c.mu.Unlock()
		switch {
		case ended:
			return nil, errEnded
		case l != nil:
			return l, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-opened:
		}
	}
}

// settle waits until pods can be made in namespace default and all nodes are ready.
func (c *Cluster) settle(ctx context.Context) error {
	if c.options.controllers {
		accounts := c.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault)
		if _, err := accounts.Get(ctx, "default", metav1.GetOptions{}); apierrors.IsNotFound(err) {
			if err := c.await(ctx, accounts.Watch, 1, isDefault); err != nil {
				return fmt.Errorf("wait for the service account of namespace default: %w", err)
			}
		} else if err != nil {
			return err
		}
	}
	if err := c.await(ctx, c.client.CoreV1().Nodes().Watch, c.options.nodes, isReady); err != nil {
		return fmt.Errorf("wait for nodes: %w", err)
	}
	return nil
}
