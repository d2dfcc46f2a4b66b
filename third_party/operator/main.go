// Command operator is what an author of an operator writes with controller-runtime:
// a kind Boat in two versions with its conversion, defaults and a check by webhooks,
// and a controller that keeps a ConfigMap for each Boat and says in its status how
// many sails it saw. The certificates are a Secret's, as cert-manager leaves them.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/conversion"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

var (
	v1  = schema.GroupVersion{Group: "example.com", Version: "v1"}
	v1b = schema.GroupVersion{Group: "example.com", Version: "v1beta1"}
)

// Boat is version v1, which is stored.
type Boat struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              BoatSpec   `json:"spec,omitempty"`
	Status            BoatStatus `json:"status,omitempty"`
}

// BoatSpec is what is wanted of a Boat.
type BoatSpec struct {
	Sails int `json:"sails,omitempty"`
}

// BoatStatus is what was seen of a Boat.
type BoatStatus struct {
	Sails int `json:"sails,omitempty"`
}

// OldBoat is version v1beta1 of Boat, which writes numbers as text.
type OldBoat struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              OldBoatSpec `json:"spec,omitempty"`
	Status            BoatStatus  `json:"status,omitempty"`
}

// OldBoatSpec is what is wanted of an OldBoat.
type OldBoatSpec struct {
	Sails string `json:"sails,omitempty"`
}

// BoatList is a list of Boats.
type BoatList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Boat `json:"items"`
}

// OldBoatList is a list of OldBoats.
type OldBoatList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []OldBoat `json:"items"`
}

// DeepCopyObject implements runtime.Object, as the others below.
func (b *Boat) DeepCopyObject() runtime.Object {
	c := *b
	b.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return &c
}

func (b *OldBoat) DeepCopyObject() runtime.Object {
	c := *b
	b.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return &c
}

func (l *BoatList) DeepCopyObject() runtime.Object {
	c := *l
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	c.Items = make([]Boat, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*Boat)
	}
	return &c
}

func (l *OldBoatList) DeepCopyObject() runtime.Object {
	c := *l
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	c.Items = make([]OldBoat, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*OldBoat)
	}
	return &c
}

// Hub marks the version that others convert to.
func (*Boat) Hub() {}

// ConvertTo implements conversion.Convertible.
func (b *OldBoat) ConvertTo(hub conversion.Hub) error {
	boat := hub.(*Boat)
	boat.ObjectMeta, boat.Status = b.ObjectMeta, b.Status
	if b.Spec.Sails == "" {
		return nil
	}
	sails, err := strconv.Atoi(b.Spec.Sails)
	boat.Spec.Sails = sails
	return err
}

// ConvertFrom implements conversion.Convertible.
func (b *OldBoat) ConvertFrom(hub conversion.Hub) error {
	boat := hub.(*Boat)
	b.ObjectMeta, b.Status = boat.ObjectMeta, boat.Status
	b.Spec.Sails = strconv.Itoa(boat.Spec.Sails)
	return nil
}

// rules are the webhooks of Boat.
type rules struct{}

// Default gives a Boat a sail.
func (rules) Default(_ context.Context, b *Boat) error {
	if b.Spec.Sails == 0 {
		b.Spec.Sails = 1
	}
	return nil
}

// ValidateCreate refuses Boats of too many sails.
func (rules) ValidateCreate(_ context.Context, b *Boat) (admission.Warnings, error) {
	if b.Spec.Sails > 5 {
		return nil, fmt.Errorf("a boat of %d sails capsizes", b.Spec.Sails)
	}
	if b.Spec.Sails > 3 {
		return admission.Warnings{"that many sails need a crew"}, nil
	}
	return nil, nil
}

// ValidateUpdate is as ValidateCreate.
func (r rules) ValidateUpdate(ctx context.Context, _, b *Boat) (admission.Warnings, error) {
	return r.ValidateCreate(ctx, b)
}

// ValidateDelete keeps Boats that are moored.
func (rules) ValidateDelete(_ context.Context, b *Boat) (admission.Warnings, error) {
	if b.Annotations["example.com/moored"] == "true" {
		return nil, fmt.Errorf("boat %s is moored", b.Name)
	}
	return nil, nil
}

// reconciler keeps a ConfigMap for each Boat.
type reconciler struct{ client.Client }

// Reconcile implements reconcile.Reconciler.
func (r reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	boat := new(Boat)
	if err := r.Get(ctx, req.NamespacedName, boat); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	papers := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: boat.Namespace, Name: boat.Name}}
	if _, err := controllerutil.CreateOrUpdate(ctx, r.Client, papers, func() error {
		papers.Data = map[string]string{"sails": strconv.Itoa(boat.Spec.Sails)}
		return controllerutil.SetControllerReference(boat, papers, r.Scheme())
	}); err != nil {
		return ctrl.Result{}, err
	}
	if boat.Status.Sails == boat.Spec.Sails {
		return ctrl.Result{}, nil
	}
	boat.Status.Sails = boat.Spec.Sails
	return ctrl.Result{}, r.Status().Update(ctx, boat)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	ctrl.SetLogger(zap.New())
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return err
	}
	scheme.AddKnownTypes(v1, new(Boat), new(BoatList))
	scheme.AddKnownTypeWithName(v1b.WithKind("Boat"), new(OldBoat))
	scheme.AddKnownTypeWithName(v1b.WithKind("BoatList"), new(OldBoatList))
	metav1.AddToGroupVersion(scheme, v1)
	metav1.AddToGroupVersion(scheme, v1b)
	mgr, err := ctrl.NewManager(ctrl.GetConfigOrDie(), ctrl.Options{
		Scheme: scheme, LeaderElection: true, LeaderElectionID: "boats.example.com",
		Metrics:       metricsserver.Options{BindAddress: "0"},
		WebhookServer: webhook.NewServer(webhook.Options{CertDir: "/certs"}),
	})
	if err != nil {
		return err
	}
	if err := ctrl.NewWebhookManagedBy(mgr, new(Boat)).WithDefaulter(rules{}).WithValidator(rules{}).Complete(); err != nil {
		return err
	}
	if err := ctrl.NewControllerManagedBy(mgr).For(new(Boat)).Owns(new(corev1.ConfigMap)).Complete(reconciler{mgr.GetClient()}); err != nil {
		return err
	}
	return mgr.Start(ctrl.SetupSignalHandler())
}
