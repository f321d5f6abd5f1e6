// Judges objects as the API server does when they are created: strict decoding, defaults, each kind's own validation and
// warnings, and for pods the level "restricted" of pod security.
//
// It reads a stream of YAML and prints a line for each thing that is refused or warned of, then how many objects passed.
// Kubernetes' own kinds alone: custom resources are counted and passed over. Nothing that a cluster would have to be asked
// is looked at (what exists already, quotas, webhooks). Exit code 1 when there was anything to say.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/apps"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	"k8s.io/kubernetes/pkg/apis/batch"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	"k8s.io/kubernetes/pkg/apis/networking"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	"k8s.io/kubernetes/pkg/apis/policy"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	podsecurity "k8s.io/pod-security-admission/api"
	podpolicy "k8s.io/pod-security-admission/policy"
)

func strategyOf(object runtime.Object) rest.RESTCreateStrategy {
	switch object.(type) {
	case *apps.Deployment:
		return deployment.Strategy
	case *batch.Job:
		return job.Strategy
	case *autoscaling.HorizontalPodAutoscaler:
		return horizontalpodautoscaler.Strategy
	case *core.ConfigMap:
		return configmap.Strategy
	case *core.Service:
		return service.Strategy
	case *core.ServiceAccount:
		return serviceaccount.Strategy
	case *networking.Ingress:
		return ingress.Strategy
	case *networking.NetworkPolicy:
		return networkpolicy.Strategy
	case *policy.PodDisruptionBudget:
		return poddisruptionbudget.Strategy
	}
	return nil
}

// What the API server would say of one object; nothing when it would take it in silence.
func judged(document []byte, codecs serializer.CodecFactory, pods podpolicy.Evaluator) (said []string, custom bool) {
	external, kind, err := codecs.UniversalDeserializer().Decode(document, nil, nil)
	if runtime.IsNotRegisteredError(err) {
		return nil, true
	}
	if err != nil {
		return []string{fmt.Sprintf("refused: %v", err)}, false
	}
	legacyscheme.Scheme.Default(external)
	object, err := legacyscheme.Scheme.ConvertToVersion(external, runtime.InternalGroupVersioner)
	if err != nil {
		return []string{fmt.Sprintf("refused: %v", err)}, false
	}
	strategy := strategyOf(object)
	if strategy == nil {
		return []string{fmt.Sprintf("refused: %v is not judged here", kind)}, false
	}
	named, err := meta.Accessor(object)
	if err != nil {
		return []string{fmt.Sprintf("refused: %v", err)}, false
	}
	rest.FillObjectMetaSystemFields(named)
	if made, is := object.(*core.Service); is {
		allocate(made)
	}
	ctx := request.WithNamespace(context.Background(), named.GetNamespace())
	ctx = request.WithRequestInfo(ctx, &request.RequestInfo{
		APIGroup: kind.Group, APIVersion: kind.Version, Verb: "create", IsResourceRequest: true, Namespace: named.GetNamespace(),
	})
	if err := rest.BeforeCreate(strategy, ctx, object); err != nil {
		said = append(said, fmt.Sprintf("refused: %v", err))
	}
	for _, warning := range strategy.WarningsOnCreate(ctx, object) {
		said = append(said, fmt.Sprintf("warned: %s %s: %s", kind.Kind, named.GetName(), warning))
	}
	if template := podOf(external); template != nil {
		level := podsecurity.LevelVersion{Level: podsecurity.LevelRestricted, Version: podsecurity.LatestVersion()}
		verdict := podpolicy.AggregateCheckResults(pods.EvaluatePod(level, &template.ObjectMeta, &template.Spec))
		if !verdict.Allowed {
			said = append(said, fmt.Sprintf("refused: %s %s: not restricted: %s", kind.Kind, named.GetName(), verdict.ForbiddenDetail()))
		}
	}
	return said, false
}

// What the server's allocators give a Service before it is judged.
func allocate(made *core.Service) {
	if made.Spec.ClusterIP == core.ClusterIPNone {
		made.Spec.ClusterIPs = []string{core.ClusterIPNone}
	}
	if made.Spec.Type == core.ServiceTypeLoadBalancer && made.Spec.ExternalTrafficPolicy == core.ServiceExternalTrafficPolicyLocal {
		made.Spec.HealthCheckNodePort = 30000
	}
}

func podOf(object runtime.Object) *corev1.PodTemplateSpec {
	switch made := object.(type) {
	case *appsv1.Deployment:
		return &made.Spec.Template
	case *batchv1.Job:
		return &made.Spec.Template
	}
	return nil
}

func main() {
	codecs := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict)
	pods, err := podpolicy.NewEvaluator(podpolicy.DefaultChecks(), nil)
	if err != nil {
		panic(err)
	}
	documents := yaml.NewYAMLReader(bufio.NewReader(os.Stdin))
	passed, passedOver, spoken := 0, 0, 0
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			panic(err)
		}
		if content := map[string]any{}; yaml.Unmarshal(document, &content) == nil && len(content) == 0 {
			continue // comments alone
		}
		said, custom := judged(document, codecs, pods)
		for _, line := range said {
			fmt.Println(line)
		}
		switch {
		case custom:
			passedOver++
		case len(said) > 0:
			spoken++
		default:
			passed++
		}
	}
	fmt.Printf("%d passed, %d not, %d custom resources\n", passed, spoken, passedOver)
	if spoken > 0 {
		os.Exit(1)
	}
}
