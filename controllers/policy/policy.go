// Package policy holds the controllers that keep the figures by which the API server decides: how many pods may be
// disrupted (disruption.go), how much of a quota is used (quota.go), and what aggregated roles allow
// (clusterrole.go). It also checks the types of admission policies (typecheck.go).
package policy

import (
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
)

// Deps is what the controllers of this package are made of.
type Deps struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Recorder  func(component string) record.EventRecorder
	Workers   int
}
