package backup

import (
	_ "embed"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Resource is that of Backups.
var Resource = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "backups"}

// Definition is the CustomResourceDefinition of Backups, in YAML.
//
//go:embed backup.yaml
var Definition []byte

// Backup has a claim backed up on a schedule.
type Backup struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   Spec   `json:"spec"`
	Status Status `json:"status,omitzero"`
}

// Spec is what the owner of a Backup wants.
type Spec struct {
	// Claim is the name of the PersistentVolumeClaim.
	Claim string `json:"claim"`
	// Schedule is when, as in a CronJob.
	Schedule string `json:"schedule"`
	// Image is what makes the backup.
	Image string `json:"image"`
	// Keep is how many Jobs that are over are kept.
	Keep int32 `json:"keep,omitempty"`
}

// Status is what the controller has seen.
type Status struct {
	// LastSuccess is when the last backup was made.
	LastSuccess *metav1.Time `json:"lastSuccess,omitempty"`
}

// parse reads what a dynamic client gives.
func parse(obj *unstructured.Unstructured) (*Backup, error) {
	b := new(Backup)
	return b, runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, b)
}

// format is the other way.
func format(b *Backup) (*unstructured.Unstructured, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(b)
	return &unstructured.Unstructured{Object: content}, err
}
