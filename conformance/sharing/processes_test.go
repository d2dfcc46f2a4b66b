package sharing_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend/databases"
	"github.com/skiff-k8s/skiff/cluster/clustertest"
)

// together are servers, controllers and schedulers of Skiff as processes, two of each, on one database and behind
// one load balancer.
type together struct {
	shared
	storage string
	// addresses are those of the servers, advertised what they give as theirs.
	addresses, advertised [2]string
	servers               [2]*server
	programs              [2]*program // of the servers
	workers               []*program  // the controllers and schedulers
	balancer              *balancer
	balanced              *server
	kubeconfig            string
}

// TestProcesses: two servers as they are run, both started at once on an empty database.
func TestProcesses(t *testing.T) {
	for name, database := range map[string]func(testing.TB) string{"postgres": databases.Postgres, "etcd": databases.Etcd} {
		t.Run(name, func(t *testing.T) {
			s := startTogether(t, database(t))
			prepare(t, &s.shared, s.balanced)
			both := s.servers[:]
			t.Run("what every cluster has is there once", s.bootstrapped)
			t.Run("writes are seen by watches of the other", func(t *testing.T) { watches(t, both...) })
			t.Run("a read after a write on the other is not stale", func(t *testing.T) { reads(t, both[0], both[1]) })
			t.Run("addresses and node ports are given once", func(t *testing.T) { services(t, &s.shared, 500, both...) })
			s.startControllers(t)
			t.Run("a quota is used to the last and not beyond", s.quota)
			t.Run("a leader that dies is replaced", s.leaders)
			t.Run("a server that dies takes its connections alone", s.server)
		})
	}
}

func startTogether(t *testing.T, storage string) *together {
	t.Helper()
	s := &together{storage: storage, advertised: [2]string{"192.0.2.1", "192.0.2.2"}}
	s.dir = t.TempDir()
	s.files = newFiles(t, filepath.Join(s.dir, "pki"))
	_, port, _ := net.SplitHostPort(freeAddress(t))
	for i := range s.servers {
		s.addresses[i] = fmt.Sprintf("127.0.0.%d:%s", i+1, port)
		s.startServer(t, i)
	}
	for _, on := range s.servers {
		s.ready(t, on)
	}
	s.balancer = balance(t, s.addresses[:]...)
	s.balanced = clients(t, "the load balancer", s.files.config(s.balancer.address()))
	s.kubeconfig = filepath.Join(s.dir, "kubeconfig")
	config := clientcmdapi.NewConfig()
	config.Clusters["skiff"] = &clientcmdapi.Cluster{Server: "https://" + s.balancer.address(), CertificateAuthorityData: s.files.caPEM}
	config.AuthInfos["admin"] = &clientcmdapi.AuthInfo{ClientCertificateData: s.files.admin.CertPEM, ClientKeyData: s.files.admin.KeyPEM}
	config.Contexts["skiff"] = &clientcmdapi.Context{Cluster: "skiff", AuthInfo: "admin"}
	config.CurrentContext = "skiff"
	if err := clientcmd.WriteToFile(*config, s.kubeconfig); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *together) startServer(t *testing.T, i int) {
	t.Helper()
	name := fmt.Sprint("skiff-", i+1)
	s.programs[i] = s.run(t, name, clustertest.Build(t), "apiserver", "--storage", s.storage, "--listen", s.addresses[i],
		"--advertise-address", s.advertised[i], "--tls-cert-file", s.files.serving, "--tls-private-key-file", s.files.servingKey,
		"--client-ca-file", s.files.ca, "--service-account-signing-key-file", s.files.tokens)
	s.servers[i] = clients(t, name, s.files.config(s.addresses[i]))
}

// startControllers starts two processes of each kind. One of each works.
func (s *together) startControllers(t *testing.T) {
	t.Helper()
	for i := range 2 {
		for _, component := range []string{"controllers", "scheduler"} {
			s.workers = append(s.workers, s.run(t, fmt.Sprint(component, "-", i+1), clustertest.Build(t), component, "--kubeconfig", s.kubeconfig))
		}
	}
}

// bootstrapped compares with a server that started alone.
func (s *together) bootstrapped(t *testing.T) {
	alone := clients(t, "alone", apiservertest.Config(apiservertest.Start(t, nil), "admin", "system:masters"))
	for _, r := range []schema.GroupVersionResource{
		{Version: "v1", Resource: "namespaces"},
		{Version: "v1", Resource: "services"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"},
		{Group: "flowcontrol.apiserver.k8s.io", Version: "v1", Resource: "flowschemas"},
		{Group: "flowcontrol.apiserver.k8s.io", Version: "v1", Resource: "prioritylevelconfigurations"},
		{Group: "scheduling.k8s.io", Version: "v1", Resource: "priorityclasses"},
		{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"},
		{Group: "networking.k8s.io", Version: "v1", Resource: "servicecidrs"},
		{Group: "networking.k8s.io", Version: "v1", Resource: "ipaddresses"},
	} {
		want := names(t, alone, r)
		for _, on := range s.servers {
			if got := names(t, on, r); !slices.Equal(got, want) {
				t.Errorf("%s has the %s %v, want %v", on.name, r.Resource, got, want)
			}
		}
	}
}

func names(t *testing.T, on *server, r schema.GroupVersionResource) (names []string) {
	t.Helper()
	list, err := on.dynamic.Resource(r).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range list.Items {
		if item.GetName() != namespace && item.GetNamespace() != namespace {
			names = append(names, item.GetNamespace()+"/"+item.GetName())
		}
	}
	return names
}

// quota: 200 creates on both servers at once, with room for 50.
func (s *together) quota(t *testing.T) {
	const room, tries = 50, 200
	hard := corev1.ResourceList{"count/secrets": resource.MustParse(fmt.Sprint(room))}
	quotas := s.balanced.typed.CoreV1().ResourceQuotas(namespace)
	if _, err := quotas.Create(t.Context(), &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "secrets"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.eventually(t, "the quota is looked after", func() error {
		q, err := quotas.Get(t.Context(), "secrets", metav1.GetOptions{})
		if err == nil && len(q.Status.Used) == 0 {
			err = fmt.Errorf("status is %v", q.Status)
		}
		return err
	})
	var made atomic.Int64
	var g errgroup.Group
	for i := range tries {
		on := s.servers[i%2]
		g.Go(func() error {
			_, err := on.typed.CoreV1().Secrets(namespace).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("q-", i)}}, metav1.CreateOptions{})
			switch {
			case err == nil:
				made.Add(1)
			case !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota"):
				t.Errorf("create on %s: %v", on.name, err)
			}
			return nil
		})
	}
	_ = g.Wait() // what went wrong has been said
	list, err := s.balanced.typed.CoreV1().Secrets(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if made.Load() != room || len(list.Items) != room {
		t.Errorf("of %d Secrets %d were made, and %d are there; there is room for %d", tries, made.Load(), len(list.Items), room)
	}
	if err := quotas.Delete(t.Context(), "secrets", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// leaders: the processes that work are killed while they work. The others go on, with nothing done twice or not at all.
func (s *together) leaders(t *testing.T) {
	s.makeNode(t)
	pods := s.balanced.typed.CoreV1().Pods(namespace)
	made := s.count(t, s.servers[1])
	deployments := s.balanced.typed.AppsV1().Deployments(namespace)
	labels := map[string]string{"app": "leaders"}
	d, err := deployments.Create(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "leaders"}, Spec: appsv1.DeploymentSpec{
		Replicas: ptr.To[int32](10), Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "example.com/none"}}}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bound := func(want int) {
		t.Helper()
		s.eventually(t, fmt.Sprint(want, " pods are bound"), func() error {
			list, err := pods.List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return err
			}
			n := 0
			for _, p := range list.Items {
				if p.Spec.NodeName != "" {
					n++
				}
			}
			if n != want || len(list.Items) != want {
				return fmt.Errorf("there are %d, and %d bound", len(list.Items), n)
			}
			return nil
		})
	}
	bound(10)
	const replicas = 60
	d.Spec.Replicas = ptr.To[int32](replicas)
	scale := fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas)
	if _, err := deployments.Patch(t.Context(), d.Name, "application/merge-patch+json", []byte(scale), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	s.eventually(t, "the controllers have begun", func() error {
		if n := made(); n < 12 {
			return fmt.Errorf("%d pods were made", n)
		}
		return nil
	})
	for _, lease := range []string{"kube-controller-manager", "kube-scheduler"} {
		s.killHolder(t, lease)
	}
	bound(replicas)
	s.eventually(t, "the watch has seen all", func() error {
		if n := made(); n < replicas {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	if n := made(); n != replicas {
		t.Errorf("%d pods were made, want %d", n, replicas)
	}
}

// makeNode makes a node that seems to live until the test ends.
func (s *together) makeNode(t *testing.T) {
	t.Helper()
	now := metav1.Now()
	room := corev1.ResourceList{"cpu": resource.MustParse("100"), "memory": resource.MustParse("100Gi"), "pods": resource.MustParse("200")}
	nodes, leases := s.balanced.typed.CoreV1().Nodes(), s.balanced.typed.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	if _, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	status := corev1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: now, LastTransitionTime: now, Reason: "Test"}}}
	s.eventually(t, "the node has a status", func() error {
		node, err := nodes.Get(t.Context(), "node", metav1.GetOptions{})
		if err != nil {
			return err
		}
		node.Status = status
		_, err = nodes.UpdateStatus(t.Context(), node, metav1.UpdateOptions{})
		return err
	})
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Spec: coordinationv1.LeaseSpec{
		HolderIdentity: ptr.To("node"), LeaseDurationSeconds: ptr.To[int32](40), RenewTime: ptr.To(metav1.NowMicro())}}
	if _, err := leases.Create(t.Context(), lease, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	var beats sync.WaitGroup
	beats.Go(func() {
		for ctx.Err() == nil {
			renewal := fmt.Sprintf(`{"spec":{"renewTime":%q}}`, metav1.NowMicro().UTC().Format(metav1.RFC3339Micro))
			_, _ = leases.Patch(ctx, "node", "application/merge-patch+json", []byte(renewal), metav1.PatchOptions{}) // the next one may succeed
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Second):
			}
		}
	})
	t.Cleanup(func() { end(); beats.Wait() })
}

// count returns a function that tells how many pods a server's watch has seen come, from now on.
func (s *together) count(t *testing.T, on *server) func() int64 {
	t.Helper()
	w, err := on.typed.CoreV1().Pods(namespace).Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	var n atomic.Int64
	go func() {
		for e := range w.ResultChan() {
			if e.Type == watch.Added {
				n.Add(1)
			}
		}
	}()
	return n.Load
}

// killHolder kills the process that holds a lease.
func (s *together) killHolder(t *testing.T, name string) {
	t.Helper()
	lease, err := s.balanced.typed.CoordinationV1().Leases(metav1.NamespaceSystem).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	holder := ptr.Deref(lease.Spec.HolderIdentity, "")
	i := slices.IndexFunc(s.workers, func(p *program) bool { return strings.HasSuffix(holder, fmt.Sprint("_", p.cmd.Process.Pid)) })
	if i < 0 {
		t.Fatalf("%s is held by %q, which is no process of this test", name, holder)
	}
	s.workers[i].kill()
}

// server: one is killed while clients write through the load balancer. What was acknowledged is there, watches on the
// other go on, and the kubernetes Service lists who lives.
func (s *together) server(t *testing.T) {
	listed(t, &s.shared, s.servers[0], s.servers[1], s.advertised[:]...)
	maps := s.servers[1].typed.CoreV1().ConfigMaps(namespace)
	begin, err := maps.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: begin.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	acknowledged := s.writeWhile(t, s.programs[0].kill)
	if _, err := maps.Create(t.Context(), configMap("last"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]int)
	for seen["last"] == 0 {
		select {
		case e, ok := <-w.ResultChan():
			m, isMap := e.Object.(*corev1.ConfigMap)
			if !ok || !isMap {
				t.Fatalf("the watch on the other server gave %+v", e)
			}
			if e.Type == watch.Added {
				seen[m.Name]++
			}
		case <-time.After(time.Minute):
			t.Fatalf("the watch on the other server shows %d of %d", len(seen), len(acknowledged))
		}
	}
	for _, name := range acknowledged {
		if seen[name] != 1 {
			t.Errorf("%s was written, and seen %d times", name, seen[name])
		}
	}
	listed(t, &s.shared, s.servers[1], s.servers[1], s.advertised[1])
	s.startServer(t, 0)
	s.ready(t, s.servers[0])
	listed(t, &s.shared, s.servers[0], s.servers[1], s.advertised[:]...)
	reads(t, s.servers[1], s.servers[0])
}

// writeWhile has 8 clients, each with connections of its own, write before, during and after do. It returns what was acknowledged.
func (s *together) writeWhile(t *testing.T, do func()) (acknowledged []string) {
	t.Helper()
	var mu sync.Mutex
	var writers sync.WaitGroup
	var done atomic.Bool
	before := make(chan struct{}, 8)
	for c := range 8 {
		writers.Go(func() {
			for n := 0; !done.Load(); n++ {
				name := fmt.Sprintf("k-%d-%d", c, n)
				// A client of its own for every write: the load balancer sees connections.
				on, hangUp := s.once(t)
				_, err := on.CoreV1().ConfigMaps(namespace).Create(t.Context(), configMap(name), metav1.CreateOptions{})
				hangUp()
				if err == nil {
					mu.Lock()
					acknowledged = append(acknowledged, name)
					mu.Unlock()
				}
				if n == 10 {
					before <- struct{}{}
				}
			}
		})
	}
	for range 8 {
		<-before
	}
	do()
	mu.Lock()
	soFar := len(acknowledged)
	mu.Unlock()
	s.eventually(t, "writes go on", func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(acknowledged) < soFar+100 {
			return fmt.Errorf("%d after %d", len(acknowledged), soFar)
		}
		return nil
	})
	done.Store(true)
	writers.Wait()
	return acknowledged
}

// once is a client with a connection of its own to the load balancer.
func (s *together) once(t *testing.T) (on kubernetes.Interface, hangUp func()) {
	t.Helper()
	config := s.files.config(s.balancer.address())
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: tls, ForceAttemptHTTP2: true}
	typed, err := kubernetes.NewForConfig(&rest.Config{Host: config.Host, Transport: transport, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	return typed, transport.CloseIdleConnections
}
