-- Suppliers who kept orders waiting: NATION = SAUDI ARABIA
SELECT s_name, count(*) AS numwait
FROM tpch.supplier, tpch.lineitem AS l1, tpch.orders, tpch.nation,
    (
        SELECT l_orderkey AS of_order, count(DISTINCT l_suppkey) AS suppliers
        FROM tpch.lineitem
        GROUP BY l_orderkey
    ) AS everyone,
    (
        SELECT l_orderkey AS late_order, count(DISTINCT l_suppkey) AS suppliers
        FROM tpch.lineitem
        WHERE l_receiptdate > l_commitdate
        GROUP BY l_orderkey
    ) AS late
WHERE s_suppkey = l1.l_suppkey
    AND o_orderkey = l1.l_orderkey
    AND o_orderstatus = 'F'
    AND l1.l_receiptdate > l1.l_commitdate
    AND of_order = l1.l_orderkey
    AND everyone.suppliers > 1
    AND late_order = l1.l_orderkey
    AND late.suppliers = 1
    AND s_nationkey = n_nationkey
    AND n_name = 'SAUDI ARABIA'
GROUP BY s_name
ORDER BY numwait DESC, s_name
LIMIT 100
