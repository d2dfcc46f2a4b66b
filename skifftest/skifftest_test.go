package skifftest_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/skifftest"
)

// eventually waits until check finds nothing wrong.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func client(t testing.TB, config *rest.Config) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(replicas), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()},
		},
	}
}

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "example.com/main"}}}
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: podSpec()}
}

func TestADeploymentRunsAndIsCollected(t *testing.T) {
	t.Parallel()
	api := skifftest.Start(t, skifftest.Nodes(2)).Client()
	if _, err := api.AppsV1().Deployments("default").Create(t.Context(), deployment("web", 3), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "three pods are available", func() error {
		d, err := api.AppsV1().Deployments("default").Get(t.Context(), "web", metav1.GetOptions{})
		if err == nil && d.Status.AvailableReplicas != 3 {
			err = fmt.Errorf("%d are", d.Status.AvailableReplicas)
		}
		return err
	})
	if err := api.AppsV1().Deployments("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its pods go with it", func() error { return none(t, api, "default") })
}

// none is an error if there are pods in a namespace.
func none(t testing.TB, api kubernetes.Interface, namespace string) error {
	pods, err := api.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{})
	if err == nil && len(pods.Items) > 0 {
		err = fmt.Errorf("%d are left", len(pods.Items))
	}
	return err
}

func TestANamespaceEnds(t *testing.T) {
	t.Parallel()
	api := skifftest.Start(t).Client()
	if _, err := api.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.CoreV1().ConfigMaps("shop").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "prices"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := api.CoreV1().Namespaces().Delete(t.Context(), "shop", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace is gone", func() error {
		_, err := api.CoreV1().Namespaces().Get(t.Context(), "shop", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %v", err)
	})
}

func TestPodsBehaveAsAsked(t *testing.T) {
	t.Parallel()
	c := skifftest.Start(t, skifftest.Pods(func(p *corev1.Pod) skifftest.Behaviour {
		if strings.HasPrefix(p.Name, "bad") {
			return skifftest.Behaviour{RunFor: time.Millisecond, ExitCode: 3}
		}
		return skifftest.Behaviour{RunFor: time.Millisecond}
	}))
	jobs := c.Client().BatchV1().Jobs("default")
	for _, name := range []string{"good", "bad"} {
		spec := podSpec()
		spec.RestartPolicy = corev1.RestartPolicyNever
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.JobSpec{BackoffLimit: ptr.To[int32](0), Template: corev1.PodTemplateSpec{Spec: spec}}}
		if _, err := jobs.Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]batchv1.JobConditionType{"good": batchv1.JobComplete, "bad": batchv1.JobFailed} {
		eventually(t, name, func() error {
			job, err := jobs.Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, condition := range job.Status.Conditions {
				if condition.Type == want && condition.Status == corev1.ConditionTrue {
					return nil
				}
			}
			return fmt.Errorf("it is not %s: %v", want, job.Status.Conditions)
		})
	}
}

func TestWithoutControllersAndScheduler(t *testing.T) {
	t.Parallel()
	c := skifftest.Start(t, skifftest.WithoutControllers(), skifftest.WithoutScheduler(), skifftest.Nodes(0), skifftest.WithoutAdmission("ServiceAccount"))
	made, err := c.Client().CoreV1().Pods("default").Create(t.Context(), pod("alone"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if made.Spec.ServiceAccountName != "" {
		t.Errorf("the pod has service account %q", made.Spec.ServiceAccountName)
	}
	statuses, err := c.Client().CoreV1().ComponentStatuses().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range statuses.Items {
		runs := status.Conditions[0].Status == corev1.ConditionTrue
		if beside := status.Name == "scheduler" || status.Name == "controller-manager"; runs == beside {
			t.Errorf("%s runs: %v", status.Name, runs)
		}
	}
}

func TestAdmissionIsChosen(t *testing.T) {
	t.Parallel()
	c := skifftest.Start(t, skifftest.WithAdmission("AlwaysPullImages"))
	made, err := c.Client().CoreV1().Pods("default").Create(t.Context(), pod("pulled"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if policy := made.Spec.Containers[0].ImagePullPolicy; policy != corev1.PullAlways {
		t.Errorf("the policy is %s", policy)
	}
}

func TestFeatureGatesAreChosen(t *testing.T) {
	t.Parallel()
	c := skifftest.Start(t, skifftest.WithFeatureGates(map[string]bool{"WatchList": false, "ComponentStatusz": true}),
		skifftest.WithFeatureGates(map[string]bool{"ComponentStatusz": false}))
	for _, test := range []struct {
		name         string
		start        func(testing.TB) *skifftest.Cluster
		lists, pages bool // what is on
	}{
		{"without the option", func(t testing.TB) *skifftest.Cluster { return skifftest.Start(t) }, true, true},
		{"with both off", func(testing.TB) *skifftest.Cluster { return c }, false, false},
		{"a fork of that", c.Fork, false, false},
	} {
		api := test.start(t).Client()
		w, err := api.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{SendInitialEvents: ptr.To(true),
			ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true})
		if err == nil {
			w.Stop()
		}
		if test.lists && err != nil || !test.lists && !apierrors.IsInvalid(err) {
			t.Errorf("%s: a watch that begins with what there is: %v", test.name, err)
		}
		_, err = api.Discovery().RESTClient().Get().AbsPath("/statusz").SetHeader("Accept", "text/plain").DoRaw(t.Context())
		if test.pages && err != nil || !test.pages && !apierrors.IsNotFound(err) {
			t.Errorf("%s: /statusz: %v", test.name, err)
		}
	}
}

// What kube-apiserver refuses, and what Skiff would not obey, a test is told at once.
func TestFeatureGatesThatAreNotThere(t *testing.T) {
	t.Parallel()
	for gate, want := range map[string]string{"Nope": "unrecognized feature gate: Nope", "OpenAPIEnums": "feature gates that Skiff does not act on"} {
		errors := (&strict{TB: t}).run(func(inner testing.TB) {
			skifftest.Start(inner, skifftest.WithFeatureGates(map[string]bool{gate: false}))
		})
		if len(errors) != 1 || !strings.Contains(errors[0], want) {
			t.Errorf("%s: the test was told %q", gate, errors)
		}
	}
}

func TestUsersHaveTheRightsTheyWereGiven(t *testing.T) {
	t.Parallel()
	c := skifftest.Start(t)
	alice := client(t, c.User("alice"))
	if _, err := alice.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("before: %v", err)
	}
	c.Grant("alice", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list"}})
	eventually(t, "alice may list", func() error {
		_, err := alice.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
		return err
	})
	if err := alice.CoreV1().ConfigMaps("default").Delete(t.Context(), "kube-root-ca.crt", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("what was not given: %v", err)
	}
	review, err := client(t, c.User("bob", "builders")).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), selfReview(), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if who := review.Status.UserInfo; who.Username != "bob" || fmt.Sprint(who.Groups) != "[system:authenticated builders]" {
		t.Errorf("bob is %v", who)
	}
}

func TestKubeconfigOpensAPort(t *testing.T) {
	t.Parallel()
	c := skifftest.Start(t)
	outside, err := clientcmd.RESTConfigFromKubeConfig(c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client(t, outside).CoreV1().Nodes().Get(t.Context(), "fake-node-1", metav1.GetOptions{}); err != nil {
		t.Errorf("as the administrator: %v", err)
	}
	other, err := clientcmd.RESTConfigFromKubeConfig(c.KubeconfigOf("carol"))
	if err != nil {
		t.Fatal(err)
	}
	if other.Host != outside.Host {
		t.Errorf("two ports: %s and %s", outside.Host, other.Host)
	}
	if _, err := client(t, other).CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("as carol: %v", err)
	}
}

func TestClustersAreNotTheSame(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for range 3 {
		ns, err := skifftest.Start(t).Client().CoreV1().Namespaces().Get(t.Context(), "kube-system", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if seen[string(ns.UID)] {
			t.Error("two clusters have a kube-system of one UID")
		}
		seen[string(ns.UID)] = true
	}
}

// strict is a test that fails or panics, without failing the one it is part of.
type strict struct {
	testing.TB
	mu       sync.Mutex
	cleanups []func()
	errors   []string
}

func (s *strict) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }
func (s *strict) FailNow()         { runtime.Goexit() }
func (s *strict) Errorf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errors = append(s.errors, fmt.Sprintf(format, args...))
}
func (s *strict) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	s.FailNow()
}

// run is what testing does with a test.
func (s *strict) run(test func(testing.TB)) (errors []string) {
	var running sync.WaitGroup
	running.Go(func() {
		defer func() {
			_ = recover() // as a test that says so in its own words
			for len(s.cleanups) > 0 {
				last := s.cleanups[len(s.cleanups)-1]
				s.cleanups = s.cleanups[:len(s.cleanups)-1]
				last()
			}
		}()
		test(s)
	})
	running.Wait()
	return s.errors
}

func TestNothingOutlivesATest(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(testing.TB){
		"returns": func(testing.TB) {},
		"fails":   func(t testing.TB) { t.FailNow() },
		"panics":  func(testing.TB) { panic("the test has a bug") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var config, outside *rest.Config
			errors := (&strict{TB: t}).run(func(inner testing.TB) {
				c := skifftest.Start(inner)
				config = c.Config()
				var err error
				if outside, err = clientcmd.RESTConfigFromKubeConfig(c.Kubeconfig()); err != nil {
					t.Error(err)
				}
				if _, err := c.Client().AppsV1().Deployments("default").Create(t.Context(), deployment("web", 5), metav1.CreateOptions{}); err != nil {
					t.Error(err)
				}
				// Nobody stops this one.
				if _, err := c.Client().CoreV1().Pods("").Watch(context.Background(), metav1.ListOptions{}); err != nil {
					t.Error(err)
				}
				end(inner)
			})
			if len(errors) > 0 {
				t.Errorf("the test was told: %q", errors)
			}
			for _, config := range []*rest.Config{config, outside} {
				if _, err := client(t, config).CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err == nil {
					t.Errorf("%s answers still", config.Host)
				}
			}
		})
	}
}

func TestWhatOutlivesIsFound(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	errors := (&strict{TB: t}).run(func(inner testing.TB) {
		c := skifftest.Start(inner, skifftest.Storage(func() (skifftest.Engine, error) {
			go func() { <-release }() // an engine that leaves something behind
			return newEngine(), nil
		}))
		_ = c
	})
	close(release)
	if len(errors) != 1 || !strings.Contains(errors[0], "TestWhatOutlivesIsFound") {
		t.Errorf("the test was told: %q", errors)
	}
}

func TestRequestsEndWithTheirCluster(t *testing.T) {
	t.Parallel()
	var body io.ReadCloser
	(&strict{TB: t}).run(func(inner testing.TB) {
		c := skifftest.Start(inner)
		request, err := http.NewRequest(http.MethodGet, "https://in-process/api/v1/pods?watch=true", nil)
		if err != nil {
			t.Error(err)
			return
		}
		answer, err := c.Config().Transport.RoundTrip(request)
		if err != nil {
			t.Error(err)
			return
		}
		body = answer.Body
	})
	if _, err := io.Copy(io.Discard, body); err != nil {
		t.Errorf("a watch ends with %v", err)
	}
}
