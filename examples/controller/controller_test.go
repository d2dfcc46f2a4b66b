package backup_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	backup "github.com/skiff-k8s/skiff/examples/controller"
	"github.com/skiff-k8s/skiff/skifftest"
)

// installed is a cluster that knows Backups.
var installed = skifftest.NewTemplate(install)

func install(t testing.TB, c *skifftest.Cluster) {
	t.Helper()
	definition := new(unstructured.Unstructured)
	if err := yaml.Unmarshal(backup.Definition, definition); err != nil {
		t.Fatal(err)
	}
	definitions := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	if _, err := dynamic.NewForConfigOrDie(c.Config()).Resource(definitions).Create(t.Context(), definition, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		_, err := c.Client().Discovery().ServerResourcesForGroupVersion(backup.Resource.GroupVersion().String())
		return err
	})
}

// controller is as whom the controller asks.
const controller = "backup-controller"

// start runs the controller on a cluster that knows Backups.
func start(t *testing.T, options ...skifftest.Option) (*skifftest.Cluster, dynamic.NamespaceableResourceInterface) {
	t.Helper()
	template := installed
	if len(options) > 0 {
		template = skifftest.NewTemplate(install, options...)
	}
	c := template.Fork(t)
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	running.Go(func() {
		if err := backup.Run(ctx, c.User(controller, "system:masters")); err != nil {
			t.Errorf("the controller: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return c, dynamic.NewForConfigOrDie(c.Config()).Resource(backup.Resource)
}

// eventually waits until check finds nothing wrong.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	var err error
	for range 3000 {
		if err = check(); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal(err)
}

// gone is an error unless err says that something is not there.
func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return errors.Join(errors.New("it is there"), err)
}

func nightly(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": "Backup", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"claim": "data", "schedule": "0 3 * * *", "image": "example.com/backup:v1", "keep": int64(10)},
	}}
}

// authority is what vouches for a server of a test.
func authority(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

func create(t testing.TB, backups dynamic.ResourceInterface, b *unstructured.Unstructured) {
	t.Helper()
	if _, err := backups.Create(context.Background(), b, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestWhatABackupOwnsGoesWithIt(t *testing.T) {
	t.Parallel()
	c, backups := start(t)
	crons := c.Client().BatchV1().CronJobs("default")
	create(t, backups.Namespace("default"), nightly("db"))
	eventually(t, func() error { _, err := crons.Get(t.Context(), "db-backup", metav1.GetOptions{}); return err })
	if err := backups.Namespace("default").Delete(t.Context(), "db", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { _, err := crons.Get(t.Context(), "db-backup", metav1.GetOptions{}); return gone(err) })
}

func TestANamespaceEndsWithItsBackups(t *testing.T) {
	t.Parallel()
	c, backups := start(t)
	namespaces := c.Client().CoreV1().Namespaces()
	if _, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	create(t, backups.Namespace("shop"), nightly("db"))
	eventually(t, func() error {
		_, err := c.Client().BatchV1().CronJobs("shop").Get(t.Context(), "db-backup", metav1.GetOptions{})
		return err
	})
	if err := namespaces.Delete(t.Context(), "shop", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { _, err := namespaces.Get(t.Context(), "shop", metav1.GetOptions{}); return gone(err) })
}

// A week passes at once: in a bubble of testing/synctest the clock goes on when all wait for it. Nodes would have to tell all
// week that they live; instead, pods succeed by the test.
func TestAWeekOfBackups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		c, backups := start(t, skifftest.Nodes(0), skifftest.WithoutScheduler())
		succeed(t, c.Client())
		create(t, backups.Namespace("default"), nightly("db"))
		midnight := time.Now().Truncate(day) // at which the clock of a bubble begins
		time.Sleep(7 * day)
		jobs, err := c.Client().BatchV1().Jobs("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(jobs.Items) != 7 {
			t.Errorf("there are %d Jobs", len(jobs.Items))
		}
		db, err := backups.Namespace("default").Get(t.Context(), "db", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		last, _, _ := unstructured.NestedString(db.Object, "status", "lastSuccess")
		at, err := time.Parse(time.RFC3339, last)
		if want := midnight.Add(6*day + 3*time.Hour); err != nil || at.Before(want) || at.After(want.Add(time.Minute)) {
			t.Errorf("the last success is at %q, want %v", last, want)
		}
	})
}

// succeed has pods of namespace default succeed as soon as they are there.
func succeed(t *testing.T, api kubernetes.Interface) {
	t.Helper()
	factory := informers.NewSharedInformerFactoryWithOptions(api, 0, informers.WithNamespace("default"))
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) {
		pod, ok := obj.(*corev1.Pod)
		if !ok {
			return
		}
		pod = pod.DeepCopy()
		pod.Status.Phase = corev1.PodSucceeded
		if _, err := api.CoreV1().Pods("default").UpdateStatus(context.Background(), pod, metav1.UpdateOptions{}); err != nil {
			t.Error(err)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
}

// Eight writers change one Backup while the controller does.
func TestAStormOfConflicts(t *testing.T) {
	t.Parallel()
	const writers, changes = 8, 10
	c, backups := start(t)
	create(t, backups.Namespace("default"), nightly("db"))
	var all sync.WaitGroup
	conflicts := make([]int, writers)
	for w := range writers {
		all.Go(func() {
			for i := range changes {
				for {
					b, err := backups.Namespace("default").Get(t.Context(), "db", metav1.GetOptions{})
					if err != nil {
						t.Error(err)
						return
					}
					labels := b.GetLabels()
					if labels == nil {
						labels = make(map[string]string)
					}
					labels[fmt.Sprintf("w%d-%d", w, i)] = "yes"
					b.SetLabels(labels)
					if err := unstructured.SetNestedField(b.Object, fmt.Sprintf("example.com/backup:v%d", i), "spec", "image"); err != nil {
						t.Error(err)
						return
					}
					_, err = backups.Namespace("default").Update(t.Context(), b, metav1.UpdateOptions{})
					if err == nil {
						break
					}
					if !apierrors.IsConflict(err) {
						t.Error(err)
						return
					}
					conflicts[w]++
				}
			}
		})
	}
	all.Wait()
	b, err := backups.Namespace("default").Get(t.Context(), "db", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(b.GetLabels()); n != writers*changes {
		t.Errorf("%d changes are there of %d", n, writers*changes)
	}
	image, _, _ := unstructured.NestedString(b.Object, "spec", "image")
	eventually(t, func() error {
		cron, err := c.Client().BatchV1().CronJobs("default").Get(t.Context(), "db-backup", metav1.GetOptions{})
		if err == nil && cron.Spec.JobTemplate.Spec.Template.Spec.Containers[0].Image != image {
			err = fmt.Errorf("the CronJob has not image %s", image)
		}
		return err
	})
	t.Logf("conflicts of the writers: %v", conflicts)
}

// For half an hour everything fails now and then that the controller asks, while Backups come, change and go. In the end there
// is what ought to be.
func TestChaos(t *testing.T) {
	for seed := range uint64(3) {
		synctest.Test(t, func(t *testing.T) {
			const count = 10
			c, all := start(t)
			backups, crons := all.Namespace("default"), c.Client().BatchV1().CronJobs("default")
			calm := c.Chaos(seed, controller)
			for i := range count {
				create(t, backups, nightly(fmt.Sprint("db-", i)))
				time.Sleep(time.Minute)
			}
			for i := range count {
				name := fmt.Sprint("db-", i)
				if i%3 == 0 {
					if err := backups.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
						t.Fatal(err)
					}
				} else if _, err := backups.Patch(t.Context(), name, types.MergePatchType, []byte(`{"spec": {"schedule": "0 4 * * *"}}`), metav1.PatchOptions{}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
			}
			calm()
			time.Sleep(10 * time.Minute)
			for i := range count {
				cron, err := crons.Get(t.Context(), fmt.Sprintf("db-%d-backup", i), metav1.GetOptions{})
				if i%3 == 0 {
					err = gone(err)
				} else if err == nil && cron.Spec.Schedule != "0 4 * * *" {
					err = fmt.Errorf("its schedule is %q", cron.Spec.Schedule)
				}
				if err != nil {
					t.Errorf("seed %d: the CronJob of db-%d: %v", seed, i, err)
				}
			}
			struck := 0
			for _, r := range c.Requests() {
				if r.Fault != (skifftest.Fault{}) {
					struck++
				}
			}
			if struck == 0 {
				t.Errorf("seed %d: no request was struck", seed)
			}
		})
	}
}

func TestTheWebhookRefusesWhatIsNoSchedule(t *testing.T) {
	t.Parallel()
	c, backups := start(t)
	server := httptest.NewTLSServer(backup.Validate())
	t.Cleanup(server.Close)
	hook := &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "backups"}, Webhooks: []admissionregistrationv1.ValidatingWebhook{{
		Name: "backups.example.com", AdmissionReviewVersions: []string{"v1"}, SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone),
		ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &server.URL, CABundle: authority(server)},
		Rules: []admissionregistrationv1.RuleWithOperations{{
			Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{"example.com"}, APIVersions: []string{"v1"}, Resources: []string{"backups"}},
		}},
	}}}
	if _, err := c.Client().AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), hook, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	bad := nightly("bad")
	if err := unstructured.SetNestedField(bad.Object, "at night", "spec", "schedule"); err != nil {
		t.Fatal(err)
	}
	if _, err := backups.Namespace("default").Create(t.Context(), bad, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "spec.schedule") {
		t.Errorf("a bad schedule: %v", err)
	}
	create(t, backups.Namespace("default"), nightly("good"))
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"schedule": "never"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backups.Namespace("default").Patch(t.Context(), "good", types.MergePatchType, patch, metav1.PatchOptions{}); err == nil || !strings.Contains(err.Error(), "schedule") {
		t.Errorf("a schedule that was made bad: %v", err)
	}
}
